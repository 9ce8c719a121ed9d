"""Account numbers, made like an IBAN: ``XX``, two check digits, the bank's four letters, ten digits.

The check digits are those of ISO 7064 MOD 97-10, as in an IBAN: a digit that is mistyped, or two that are exchanged,
are found. ``XX`` is a country that ISO 3166 leaves to its users, so no account of anybody's is meant.
"""

import re

#: The bank whose accounts the ledger holds.
BANK = "ANTI"
_NUMBER = re.compile(r"XX[0-9]{2}[A-Z]{4}[0-9]{10}")
_MERCHANT = 9_000_000_000


def account_number(number: int, bank: str = BANK) -> str:
    """The account of that *number* (below 10**10) at *bank*."""
    rest = f"{bank}{number:010d}"
    return f"XX{98 - _remainder(rest + 'XX00'):02d}{rest}"


def merchant_account(number: int) -> str:
    """The account of a merchant of the bank's, from 0."""
    return account_number(_MERCHANT + number)


def is_merchant(account: str) -> bool:
    """Whether a valid number is a merchant's."""
    return int(account[-10:]) >= _MERCHANT


def bank_of(account: str) -> str:
    """The bank that holds a valid number."""
    return account[4:8]


def is_valid(account: str) -> bool:
    """Whether it is well formed and its check digits are right."""
    return _NUMBER.fullmatch(account) is not None and _remainder(account[4:] + account[:4]) == 1


def _remainder(text: str) -> int:
    return int("".join(str(int(character, 36)) for character in text)) % 97
