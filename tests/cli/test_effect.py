"""``antiphon effect``: what is open is listed, shown, and resolved by a person's word."""

import json
from pathlib import Path

from tests.cli.kit import antiphon, running

APP = """
from antiphon import App, Effects, Event, Retry, Service, Transaction

class Charge(Event):
    order_id: str

payment = Service("payment", tables="CREATE TABLE IF NOT EXISTS receipts (order_id TEXT, number INTEGER);")

async def ask_bank() -> int:
    raise TimeoutError("no answer")

@payment.on(Charge, retry=Retry(attempts=3))
async def charge(wanted: Charge, effects: Effects, tx: Transaction) -> None:
    number = await effects.once("charge", ask_bank)
    await tx.execute("INSERT INTO receipts VALUES (?, ?)", wanted.order_id, number)
    print("charged", wanted.order_id, number, flush=True)

app = App(payment, name="bank_app")
"""


def test_an_ambiguous_call_is_listed_shown_and_resolved(tmp_path: Path) -> None:
    """Resolving runs the dead letter again, which is given what the person said; what is known stays so."""
    (tmp_path / "bank_app.py").write_text(APP)
    with running("bank_app", "--data", "data", "--port", "0", cwd=tmp_path) as app:
        sent = antiphon("publish", "bank_app", "Charge", "--data-json", '{"order_id": "o1"}', cwd=tmp_path)
        assert sent.returncode == 0, sent.stderr
        event_id = sent.stdout.split()[0]
        found: list[dict[str, object]] = []
        while not found or found[0]["state"] != "AMBIGUOUS":
            listed = antiphon("effect", "ls", "--json", cwd=tmp_path)
            assert listed.returncode == 0, listed.stderr
            found = json.loads(listed.stdout)["effects"]
        assert [effect["key"] for effect in found] == [f"{event_id}:payment.charge:charge"]
        assert "no answer" in antiphon("effect", "ls", cwd=tmp_path).stdout
        shown = antiphon("effect", "show", event_id, cwd=tmp_path)
        assert "AMBIGUOUS since" in shown.stdout
        nonsense = antiphon("effect", "resolve", event_id, "--done", "--result", "{", "--reason", "x", cwd=tmp_path)
        assert nonsense.returncode == 2
        said = ("--done", "--result", "77", "--reason", "seen in the portal")
        resolved = antiphon("effect", "resolve", event_id, *said, "--json", cwd=tmp_path)
        assert resolved.returncode == 0, resolved.stderr
        assert json.loads(resolved.stdout)["resolution"] == "seen in the portal"
        assert app.line() == "charged o1 77"
        again = antiphon("effect", "resolve", event_id, "--not-done", "--reason", "no", cwd=tmp_path)
        assert again.returncode != 0
        assert "is known" in again.stderr
        assert antiphon("effect", "show", "nothing", cwd=tmp_path).returncode != 0
        assert app.stop() == 0
