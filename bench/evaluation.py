#!/usr/bin/env python3
"""Writes the results of a run into docs/EVALUATION.md, between its two markers: bench/evaluation.py RESULTS_DIR

Every figure is `median (p10 to p90, n)`, or one number where it is counted instead of measured.
Needs nothing but Python."""

import json
import math
import pathlib
import sys

BEGIN, END = "<!-- results: bench/evaluation.py -->", "<!-- end of results -->"
DOCUMENT = pathlib.Path(__file__).parent / "../docs/EVALUATION.md"
ROUNDS_FEW = 20
RABE = ("bsw", "ac17-cp", "ac17-kp", "lsw", "ghw11", "yct14")


def significant(value, digits=3):
    """So many significant digits, thousands apart, no exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "?"
    decimals = min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 12)
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def is_counted(figure):
    """Whether it is a size or a number of things, which measuring again would not change."""
    return figure["measure"] == "break-even by bytes" or (
        figure["unit"] in ("bytes", "round trips") and figure["measure"] != "peak memory"
    )


def cell(figure):
    if figure is None:
        return ""
    spread = figure["spread"]
    if is_counted(figure):
        return significant(spread["p50"])
    if spread["count"] == 1 and spread["min"] == spread["max"]:
        return f"{significant(spread['p50'])} (once)"
    low, high = significant(spread["p10"]), significant(spread["p90"])
    return f"{significant(spread['p50'])} ({low} to {high}, {spread['count']:,})"


def table(head, rows):
    rows = [[str(text).replace("|", "\\|") for text in row] for row in rows]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def unique(values):
    return list(dict.fromkeys(values))


class Results:
    def __init__(self, report):
        self.report = report

    def of(self, question, **fields):
        fields["question"] = question
        return [f for f in self.report["figures"] if all(f[k] == v for k, v in fields.items())]

    def one(self, question, **fields):
        return next(iter(self.of(question, **fields)), None)

    def grid(self, question, rows, columns, corner, **fields):
        """A row for each of `rows`, (title, fields), and a column for each of `columns`; without what is empty."""
        find = lambda row, column: cell(self.one(question, **fields, **row, **column))
        found = [(title, [find(row, column) for _, column in columns]) for title, row in rows]
        found = [(title, cells) for title, cells in found if any(cells)]
        keep = [i for i in range(len(columns)) if any(cells[i] for _, cells in found)]
        if not found:
            return ""
        head = [corner, *(columns[i][0] for i in keep)]
        return table(head, [[title, *(cells[i] for i in keep)] for title, cells in found])


def machine(results):
    report = results.report
    made_on = report["machine"]
    processors = f"{made_on['processors']} processors"
    memory = f"{made_on['memory_bytes'] / 2**30:.0f} GiB of memory" if made_on.get("memory_bytes") else None
    virtual = "a virtual machine" if made_on.get("hypervisor") else None
    seconds = report["seconds"]
    took = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    parts = [made_on.get("processor"), processors, memory, virtual, made_on["system"]]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return (
        f"`{report['command']}`, begun {report['started']}, {took}, plan "
        f"{report['plan']}{', interrupted' if report['interrupted'] else ''}. On {', '.join(filter(None, parts))}. {versions}."
    )


def targets(results):
    rows = []
    for target in results.report["targets"]:
        low, high, count = target.get("low"), target.get("high"), target.get("count")
        interval = "" if low is None else f"{significant(low, 4)} to {significant(high, 4)}"
        doubt = ""
        bound = float(target["target"].split()[-1])
        if count is not None and count < ROUNDS_FEW:
            doubt = ", few rounds"
        elif low is not None and low <= bound <= high and low < high:
            doubt = ", interval crosses the bound"
        met = "met" if target["met"] else "**not met**"
        measured = f"{significant(target['measured'], 4)} {target['unit']}"
        rows.append([target["name"], target["target"], measured, interval, count or "", met + doubt])
    return table(["promise", "bound", "measured", "95 %", "rounds", ""], rows) if rows else ""


def schemes(results):
    names = unique(f["series"] for f in results.of("schemes", measure="decapsulate", unit="ms"))
    columns = [(name, {"series": name}) for name in names]
    timed = [(f"{m}, ms", {"measure": m, "unit": "ms"}) for m in ("setup", "keygen", "encapsulate", "decapsulate")]
    sized = [(f"{m}, bytes", {"measure": m, "unit": "bytes"}) for m in ("params", "key", "encapsulation", "peak memory")]
    yield "### Schemes at 10 attributes", results.grid("schemes", timed + sized, columns, "", at=10.0)
    places = sorted({f["at"] for f in results.of("schemes", measure="decapsulate", unit="ms")})
    columns = [(f"{at:g}", {"at": at}) for at in places]
    rows = [(name, {"series": name}) for name in names]
    for measure in ("keygen", "encapsulate", "decapsulate"):
        grid = results.grid("schemes", rows, columns, "attributes", measure=measure, unit="ms")
        yield f"### {measure}, ms", grid
    rows = unique(
        (f["measure"].removesuffix(", in turn"), f["series"])
        for f in results.of("schemes", unit="ratio")
    )
    rows = [
        (f"{measure}: {series}", {"measure": m, "series": series})
        for measure, series in rows
        for m in unique(f["measure"] for f in results.of("schemes", series=series, unit="ratio"))
        if m.removesuffix(", in turn") == measure
    ]
    places = sorted({f["at"] for f in results.of("schemes", unit="ratio")})
    columns = [(f"{at:g}", {"at": at}) for at in places]
    yield "### Ratios of interleaved rounds, at so many attributes or payload bytes", results.grid(
        "schemes", rows, columns, "", unit="ratio"
    )
    never = unique(f["measure"] for f in results.of("schemes") if f["measure"].endswith(", labels never seen"))
    rows = [
        (f"{name}: {measure.split(',')[0]}", {"series": name, "measure": measure})
        for name in unique(f["series"] for m in never for f in results.of("schemes", measure=m))
        for measure in never
    ]
    columns = [("10", {"at": 10.0}), ("50", {"at": 50.0})]
    yield "### Labels never seen, ms, at so many attributes", results.grid("schemes", rows, columns, "")
    rows = [(s, {"series": s}) for s in unique(f["series"] for f in results.of("schemes", measure="header bytes"))]
    yield "### Bytes of a header, at 10 attributes", results.grid(
        "schemes", rows, [("bytes", {"at": 10.0})], "", measure="header bytes"
    )


def mode(results):
    figures = results.of("mode", along="attributes")
    columns = [(f"{m}, {u}", {"measure": m, "unit": u}) for m, u in unique((f["measure"], f["unit"]) for f in figures)]
    rows = [(s, {"series": s}) for s in unique(f["series"] for f in figures)]
    yield "### CP or KP, at 10 attributes", results.grid("mode", rows, columns, "", along="attributes")
    rows = [(s, {"series": s}) for s in unique(f["series"] for f in results.of("mode", measure="time to open"))]
    places = sorted({f["at"] for f in results.of("mode", measure="time to open")})
    columns = [(f"{at:g}", {"at": at}) for at in places]
    yield "### Time to open, ms, with a round trip of so many ms", results.grid(
        "mode", rows, columns, "", measure="time to open"
    )


def mqtt(results):
    rows = [
        (f"{measure}: {series}, {unit}", {"measure": measure, "series": series, "unit": unit})
        for measure, series, unit in unique(
            (f["measure"], f["series"], f["unit"]) for f in results.of("mqtt") if "TLS" in f["measure"]
        )
    ]
    yield "### MQTT: sealed against TLS, in turn", results.grid("mqtt", rows, [("at 256 bytes", {"at": 256.0})], "")
    for measure, unit in unique((f["measure"], f["unit"]) for f in results.of("mqtt") if "TLS" not in f["measure"]):
        figures = results.of("mqtt", measure=measure, unit=unit)
        columns = [(f"{at:g}", {"at": at}) for at in sorted({f["at"] for f in figures})]
        rows = [(s, {"series": s}) for s in unique(f["series"] for f in figures)]
        grid = results.grid("mqtt", rows, columns, "payload bytes", measure=measure, unit=unit)
        means = unique(f["note"] for f in figures if (f.get("note") or "").startswith("mean of"))
        note = f" ({', '.join(means)})" if means else ""
        # Tails matter to whoever waits for a message.
        yield f"### MQTT: {measure}, {unit}{note}", grid
        if measure.startswith("latency"):
            cells = [
                [s, *(significant(f["spread"]["p99"]) for _, at in columns for f in [results.one("mqtt", measure=measure, unit=unit, series=s, **at)] if f)]
                for s, _ in rows
            ]
            yield f"### MQTT: {measure}, {unit}, 99th percentile", table(["payload bytes", *(c for c, _ in columns)], cells)


def subscribers(results):
    for measure, unit in (("seal", "ms"), ("bytes sent", "bytes")):
        figures = results.of("subscribers", measure=measure)
        rows = [(f"{at:g}", {"at": at}) for at in sorted({f["at"] for f in figures})]
        columns = [(s, {"series": s}) for s in unique(f["series"] for f in figures)]
        grid = results.grid("subscribers", rows, columns, "subscribers", measure=measure)
        yield f"### One more subscriber: {measure}, {unit}", grid
    measures = [m for m in ("break-even", "break-even by bytes") if results.of("subscribers", measure=m)]
    rows = [(s, {"series": s}) for m in measures[:1] for s in unique(f["series"] for f in results.of("subscribers", measure=m))]
    columns = [("by time" if m == "break-even" else "by bytes", {"measure": m}) for m in measures]
    yield "### Sealing once is cheaper from so many subscribers on", results.grid("subscribers", rows, columns, "")


def device(results):
    figures = results.of("device")
    columns = [(m, {"measure": m}) for m in unique(f["measure"] for f in figures)]
    measured = {"this machine": "this machine, ms", "instructions here": "instructions here"}
    rows = [(measured.get(s, f"{s}, ms (estimate)"), {"series": s}) for s in unique(f["series"] for f in figures)]
    yield "### A small device, at 10 attributes; the range of an estimate is that of its assumptions", results.grid(
        "device", rows, columns, ""
    )


def results_of(report):
    results = Results(report)
    parts = [machine(results), "A cell is the median, with the tenth and the ninetieth percentile and the number of measurements in brackets; "
             "one number alone is counted, not measured. rabe's columns (" + ", ".join(RABE) + ") protect nothing."]
    parts.append(targets(results))
    for question in (schemes, mode, mqtt, subscribers, device):
        for title, text in question(results):
            if text:
                parts.append(f"{title}\n\n{text}")
    if report.get("failed"):
        parts.append("### Not measured to the end\n\n" + "\n".join(f"- {what}" for what in report["failed"]))
    if report["omitted"]:
        parts.append("### Left out, or to be read with care\n\n" + "\n".join(f"- {what}" for what in report["omitted"]))
    return "\n\n".join(part for part in parts if part)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: bench/evaluation.py RESULTS_DIR [DOCUMENT]")
    report = json.loads((pathlib.Path(sys.argv[1]) / "results.json").read_text())
    document = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else DOCUMENT
    before, found, rest = document.read_text().partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        sys.exit(f"{document} has no place for results, between `{BEGIN}` and `{END}`")
    document.write_text(f"{before}{BEGIN}\n\n{results_of(report)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
