"""What both services share: the events between them, the plans, and how long they try."""
