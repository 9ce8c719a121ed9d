"""How long each kind of step is tried before its event becomes a dead letter: by attempts, and by age."""

from antiphon import Retry, days, hours, minutes, seconds

#: A step in the service's own database: what fails there is over soon.
DATABASE = Retry(attempts=8, first=seconds(0.5), cap=minutes(1), max_age=hours(1))
#: Taking money: patiently, but not once the passenger has given up; a day at most.
CHARGE = Retry(attempts=12, first=seconds(1), cap=minutes(5), max_age=hours(24))
#: Giving money back is owed: for days, if it has to be.
REFUND = Retry(attempts=50, first=seconds(1), cap=hours(2), max_age=days(3))
#: A mail server that is away comes back; a ticket that arrives after a day helps nobody.
MAIL = Retry(attempts=20, first=seconds(2), cap=hours(1), max_age=hours(24))
