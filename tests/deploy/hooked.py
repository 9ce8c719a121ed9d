"""An app between a sender of webhooks and a folder, told by its environment: ``tests.deploy.hooked:app``."""

import os

from antiphon import App, Service
from tests.channel.kit import Got, Passed

relay = Service("relay")


@relay.on(Got)
async def pass_on(got: Got) -> Passed:
    """What comes in by one channel goes out by the other."""
    return Passed(n=got.n, about=got.about)


app = App(relay, name="hooked", own_stores=True)
app.channel("webhook://", name="hooks", inbound={"got": Got}, options={"secret": os.environ["HOOKS_SECRET"]})
app.channel(os.environ["HOOKS_FOLDER"], name="passed", outbound={"passed.jsonl": Passed})
