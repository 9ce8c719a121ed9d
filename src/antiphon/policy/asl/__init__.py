"""The Amazon States Language: definitions read and checked, and what each state makes of its data. Pure functions."""
