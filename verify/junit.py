"""The report as JUnit XML, which continuous integration shows: one test case for each target."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from .report import Report, TargetReport

_ILLEGAL = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml(report: Report) -> bytes:
    """The document. An inconclusive target is an error of that type: it has not been shown to be right."""
    suite = ElementTree.Element("testsuite", name="refactor verify")
    verdicts = [t.verdict for t in report.targets]
    suite.set("tests", str(len(verdicts)))
    suite.set("failures", str(verdicts.count("fail")))
    suite.set("errors", str(verdicts.count("error") + verdicts.count("inconclusive")))
    suite.set("skipped", "0")
    suite.set("time", f"{sum(t.seconds for t in report.targets):.3f}")
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("device", report.device), ("torch", report.torch)):
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))
    for target in report.targets:
        _case(suite, target, report.device)
    document = ElementTree.Element("testsuites")
    document.append(suite)
    ElementTree.indent(document)
    return bytes(ElementTree.tostring(document, encoding="utf-8", xml_declaration=True)) + b"\n"


def _case(suite: ElementTree.Element, target: TargetReport, device: str) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname="refactor.verify", name=_clean(target.name))
    case.set("time", f"{target.seconds:.3f}")
    kinds = {"fail": "failure", "error": "error", "inconclusive": "error"}
    if target.verdict in kinds:
        trouble = ElementTree.SubElement(case, kinds[target.verdict], message=_clean(target.reason))
        trouble.set("type", target.group or target.verdict)
        if target.counterexample is not None:
            trouble.text = _clean(target.counterexample.script)
    lines = [f"{check.name}: {check.status}, {check.examples} sequences" for check in target.checks]
    if target.verdict == "pass":
        lines.insert(0, target.reason + (" (unverified on GPU)" if device == "cpu" else ""))
    out = ElementTree.SubElement(case, "system-out")
    out.text = _clean("\n".join([*lines, *(f"note: {note}" for note in target.notes)]))


def _clean(text: str) -> str:
    """Without the characters XML cannot hold."""
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
