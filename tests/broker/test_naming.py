"""What is shown of a URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.broker.connecting import bus_at
from antiphon.broker.naming import checked, shown, without_name
from antiphon.errors import DeclarationError
from antiphon.model.retry import days
from antiphon.runtime.clock import SystemClock


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("nats://user:secret@host:4222", "nats://host:4222"),
        ("redis://:sec/ret@host/0", "redis://host/0"),
        ("amqp://user:sec#ret@host/", "amqp://host/"),
        ("amqp://user:sec?ret@host/vhost", "amqp://host/vhost"),
        ("amqp://user:sec@ret@host/", "amqp://host/"),
        ("nats://u:secret@one,nats://u:secret@two", "nats://two"),
        ("kafka://u:p@one:1,two:2?sasl=PLAIN&x=secret", "kafka://one:1,two:2"),
        ("user:secret@host", "host"),
        ("folder:///data/me@home/in?x=1", "folder:///data/me@home/in"),
        ("sqs://eu-west-1?order=none", "sqs://eu-west-1"),
        ("", ""),
    ],
)
def test_no_password_is_shown(url: str, seen: str) -> None:
    """However it is written, also where it should have been written otherwise."""
    assert shown(url) == seen


@pytest.mark.parametrize(
    ("url", "rest", "name"),
    [
        ("nats://h?name=a", "nats://h", "a"),
        ("sqs://?order=none&name=a", "sqs://?order=none", "a"),
        ("sqs://", "sqs://", None),
        ("redis://:se?name=cret@h/0?name=a", "redis://:se?name=cret@h/0", "a"),
    ],
)
def test_the_name_is_taken_out_of_a_url(url: str, rest: str, name: str | None) -> None:
    """The rest stays as it was written."""
    assert without_name(url) == (rest, name)


@pytest.mark.parametrize("url", ["nats://h", "nats://h:4222", "redis://[::1]:6379/0", "amqp://u:p@h:1/v?heartbeat=9"])
def test_a_url_that_can_be_used(url: str) -> None:
    """With a port or without one, by name or number."""
    assert checked(url, ("heartbeat",)) == url


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("nats://me:secret@h:42x2", "its port is no number"),
        ("nats://h?nmae=a", "no option 'nmae'"),
        ("tls://h?replicas=3", "no option 'replicas'"),
        ("amqp://me:secret@h/?nmae=a", "no option 'nmae'"),
        ("amqp://me:sec/ret@h/", "%2F"),
        ("redis://:secret@h:63x9", "its port is no number"),
        ("redis://h?nmae=a", "'nmae'"),
        ("redis://h?db=one", "'db'"),
        ("redis://:sec/ret@h", "%2F"),
        ("sqs://127.0.0.1:45x6", "its port is no number"),
        ("me:secret", "is no URL"),
    ],
)
def test_a_url_that_a_client_would_misunderstand_is_refused(url: str, wrong: str) -> None:
    """Where the app begins, with nothing of the password in what is said."""
    with pytest.raises(DeclarationError, match=wrong) as refused:
        bus_at(url, "shop", keep=days(7))(Path(), clock=SystemClock(), owner="one")
    assert "sec" not in str(refused.value)
    assert "ret" not in str(refused.value)
