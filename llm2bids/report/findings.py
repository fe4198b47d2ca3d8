"""Sections: overlap, repeatability, identification, calibration of false positives."""

from dataclasses import dataclass

from llm2bids.report.section import Missing, Section, missing
from llm2bids.report.sources import Sources


@dataclass(frozen=True, kw_only=True)
class Finding:
    value: str
    name: str
    detail: str = ""
    is_tile: bool = False


def findings_sections(sources: Sources) -> list[Section]:
    part = Missing(what="Not computed yet.", command=sources.command("findings"))
    return [Section(name="overlap", title="Overlap", body=missing(part))]


def summary(sources: Sources) -> list[Finding]:
    return []
