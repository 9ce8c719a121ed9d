"""The chain over each broker: Antiphon beside a loop by hand on the raw client, and beside FastStream."""
