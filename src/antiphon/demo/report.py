"""What the demo says at its end: for programs and for people."""

from __future__ import annotations

from typing import Any

from antiphon.demo.audit import Audit
from antiphon.demo.play import Played
from antiphon.demo.subject import Subject


def facts_of(subject: Subject, found: Audit, played: Played, *, seed: int) -> dict[str, Any]:
    """The result as one JSON object."""
    fed = played.fed
    return {
        "demo": subject.app.name,
        **found.figures,
        "lost": found.total("lost"),
        "duplicated": found.total("duplicated") + fed.doubled,
        "events_per_second": round(found.figures["events"] / max(played.seconds, 0.001), 1),
        "requests_sent_twice": fed.sent_twice,
        "requests_refused": fed.refused,
        "processes_killed": played.killed,
        "seconds": round(played.seconds, 3),
        "drained": played.settled,
        "seed": seed,
        "findings": dict(found.findings),
        "audit_ok": found.ok and not fed.doubled,
    }


def summary_of(subject: Subject, facts: dict[str, Any]) -> str:
    """The same in words."""
    lines = ["", *subject.summary(facts)]
    lines.append(
        f"{facts['events']} events ({facts['events_per_second']:.0f}/s), {facts['retries']} retries, "
        f"{facts['dead_letters']} dead letters."
    )
    if facts["processes_killed"]:
        lines.append(f"{facts['processes_killed']} processes were killed (kill -9), and started again.")
    if facts["requests_sent_twice"]:
        lines.append(f"{facts['requests_sent_twice']} requests were sent twice, and accepted once.")
    if facts["requests_refused"]:
        lines.append(f"{facts['requests_refused']} requests were refused.")
    if not facts["drained"]:
        lines.append("The draining was cut short; what is open goes on at the next start on the same data.")
    lines.append(f"Audit of the databases: {facts['lost']} lost, {facts['duplicated']} duplicated.")
    lines += [f"  {count} {finding}" for finding, count in facts["findings"].items()]
    lines.append("Audit passed." if facts["audit_ok"] else "AUDIT FAILED.")
    return "\n".join(lines)
