"""How long the services try before an event becomes a dead letter."""

from antiphon import Retry, hours, minutes, seconds

#: For handlers that touch their own database only: soon at first, a day at most.
DATABASE_RETRY = Retry(attempts=8, first=seconds(1), cap=minutes(5), max_age=hours(24))
