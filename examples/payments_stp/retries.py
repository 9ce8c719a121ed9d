"""How long each kind of step is tried before its message becomes a dead letter: by attempts, and by age."""

from antiphon import Retry, days, hours, minutes, seconds

#: A step in the service's own database: what fails there is over soon.
DATABASE = Retry(attempts=20, first=seconds(0.5), cap=minutes(5), max_age=hours(24))
#: The ledger: nobody is told anything before it has spoken, so it is tried for days.
LEDGER = Retry(attempts=200, first=seconds(0.5), cap=minutes(30), max_age=days(3))
