"""How long each kind of step is tried before it becomes a dead letter: by attempts, and by age."""

from antiphon import Retry, days, hours, minutes, seconds

#: A step in the service's own database: what fails there is over soon.
DATABASE = Retry(attempts=8, first=seconds(0.5), cap=minutes(1), max_age=hours(1))
#: Money is taken, and given back, by a bank that may be away for a weekend.
BANK = Retry(attempts=60, first=seconds(1), cap=hours(2), max_age=days(4))
#: A parcel waits until the depot works again; after two days the customer has the money back.
DEPOT = Retry(attempts=40, first=seconds(1), cap=hours(2), max_age=days(2))
#: A mail server that is away comes back; news that is a day old helps nobody.
MAIL = Retry(attempts=20, first=seconds(2), cap=hours(1), max_age=hours(24))
