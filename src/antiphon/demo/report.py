"""What the demo says at its end: for programs and for people."""

from __future__ import annotations

from typing import Any

from antiphon.demo.audit import Audit
from antiphon.demo.feeder import Fed


def facts_of(found: Audit, fed: Fed, *, seconds: float, settled: bool, seed: int) -> dict[str, Any]:
    """The result as one JSON object."""
    figures = dict(found.figures)
    return {
        "accepted": figures.pop("accepted"),
        "ticketed": figures.pop("ticketed"),
        "cancelled": figures.pop("cancelled"),
        "refunded": figures.pop("refunded"),
        "lost": found.total("lost"),
        "duplicated": found.total("duplicated") + fed.doubled,
        **figures,
        "events_per_second": round(figures["events"] / max(seconds, 0.001), 1),
        "requests_sent_twice": fed.sent_twice,
        "requests_refused": fed.refused,
        "seconds": round(seconds, 3),
        "drained": settled,
        "seed": seed,
        "findings": dict(found.findings),
        "audit_ok": found.ok and not fed.doubled,
    }


def summary_of(facts: dict[str, Any], found: Audit) -> str:
    """The same in words."""
    lines = [
        "",
        f"{facts['accepted']} bookings accepted in {facts['seconds']:.1f} s: {facts['ticketed']} ticketed, "
        f"{facts['cancelled']} cancelled, of these {facts['refunded']} with their payment refunded.",
        f"{facts['events']} events ({facts['events_per_second']:.0f}/s), {facts['retries']} retries, "
        f"{facts['dead_letters']} dead letters, {facts['emails']} e-mails.",
    ]
    if facts["requests_sent_twice"]:
        lines.append(f"{facts['requests_sent_twice']} requests were sent twice, and booked once.")
    if facts["emails_repeated"]:
        lines.append(
            f"{facts['emails_repeated']} e-mails were sent again after a failure; their Message-ID says that they are "
            "the same."
        )
    if facts["requests_refused"]:
        lines.append(f"{facts['requests_refused']} requests were refused.")
    if not facts["drained"]:
        lines.append("The draining was cut short; what is open goes on at the next start on the same data.")
    lines.append(f"Audit of the databases: {facts['lost']} lost, {facts['duplicated']} duplicated.")
    lines += [f"  {count} {finding}" for finding, count in found.findings.items()]
    lines.append("Audit passed." if facts["audit_ok"] else "AUDIT FAILED.")
    return "\n".join(lines)
