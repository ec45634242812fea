"""One hostile text, as tenant, reason, error, level, title and note, through every output that shows data."""

from __future__ import annotations

import datetime as dt
import io
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from ml_pipeline import display
from ml_pipeline.assets.factory import DESCRIPTIONS
from ml_pipeline.assets.reporting import metadata
from ml_pipeline.cli import alerts as alerts_command
from ml_pipeline.cli import common, importing, loop, prediction, status
from ml_pipeline.definitions import broken_assets
from ml_pipeline.resources.notifier import Alert, Log, Notice, mail_message, slack_message
from ml_pipeline.specs import BrokenSpec, Specs

HOSTILE = (
    "[/x][red]a[/red] [link=http://evil.example]b[/link] \\[c :smile: \x1b[2J\x1b]0;title\x07 \x9b31m \u202eevil "
    "| ` <img src=x onerror=alert(1)> <!channel> <@U1> @here *d* _e_ [f](http://evil.example) $\\frac$ "
    "'; rm -rf / #\r\nacme  story_points  7 champion\nBcc: eve@example.org"
)
AT = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch):
    """What a command's functions print, as bytes would reach a terminal that knows colours."""
    stream = io.StringIO()
    wide = common.PlainConsole(file=stream, width=2000, force_terminal=True, color_system="truecolor")
    for module in (alerts_command, importing, loop, prediction, status, common):
        monkeypatch.setattr(module, "output", wide, raising=False)
        monkeypatch.setattr(module, "console", wide, raising=False)

    def printed() -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())  # Rich's own colours

    return SimpleNamespace(console=wide, printed=printed)


def assert_plain(text: str) -> None:
    """The text is there in every character, and does nothing."""
    assert not CONTROL.search(text)
    assert "[/x][red]a[/red] [link=http://evil.example]b[/link] \\[c :smile:" in text
    assert r"\x1b[2J\x1b]0;title\x07" in text
    assert r"\u202eevil" in text


def test_a_console_that_reads_markup_would_break():
    with pytest.raises(Exception, match=r"closing tag '\[/x\]'"):
        Console(file=io.StringIO()).print(HOSTILE)


def test_a_line_is_one_line_and_plain(shown):
    shown.console.say((HOSTILE, "bold"), " and ", HOSTILE)
    shown.console.print(HOSTILE.replace("\r", "").replace("\n", " "))
    assert_plain(shown.printed())
    assert shown.printed().count("\n") == 2


def test_status_keeps_one_row_for_each_tenant(shown, monkeypatch):
    numbers = dict.fromkeys(("value", "baseline_value", "skill", "health"))
    row = SimpleNamespace(
        tenant=HOSTILE, model=HOSTILE, version=1, alias="champion", rows=3, metric=HOSTILE, drift=HOSTILE,
        state="drifting", state_reason=HOSTILE.replace(" (", "("), **numbers,
    )  # fmt: skip
    monkeypatch.setattr("ml_pipeline.work.fleet.fleet_status", lambda *_: [row, row])
    monkeypatch.setattr("ml_pipeline.resources.registry.Registry", lambda _: None)
    monkeypatch.setattr("ml_pipeline.resources.warehouse.Warehouse", lambda _: SimpleNamespace(tenants=lambda: []))
    status.show_status(SimpleNamespace(), Specs({}), (), (), as_json=False)
    assert_plain(shown.printed())
    assert len([line for line in shown.printed().splitlines() if line.strip()]) == 1 + 2 + 2 + 1


def test_explain_shows_a_decision_as_it_is(shown):
    guard = {"name": HOSTILE, "passed": False, "overridden": HOSTILE, "sentence": HOSTILE}
    decision = {"version": 1, "as_of": AT, "verdict": HOSTILE, "reason": HOSTILE, "numbers": {"safeguards": [guard]}}
    loop._print_decision(HOSTILE, decision)
    assert_plain(shown.printed())
    assert not any(line.startswith("acme") for line in shown.printed().splitlines())


def test_alerts_are_three_lines_each(shown):
    delivery = {"channel": HOSTILE, "state": "failed", "last_error": HOSTILE}
    alert = {
        "alert_id": "7f3e", "as_of": AT, "tenant_id": HOSTILE, "model": HOSTILE, "level": HOSTILE, "escalated_at": AT,
        "kind": HOSTILE, "occurrences": 1, "message": HOSTILE, "deliveries": [delivery],
        "acknowledged_at": AT, "acknowledged_by": HOSTILE, "acknowledged_note": HOSTILE,
    }  # fmt: skip
    alerts_command._print(alert)
    assert_plain(shown.printed())
    assert shown.printed().count("\n") == 3


def test_an_imported_file_and_its_reasons_are_plain(shown):
    summary = SimpleNamespace(
        file=Path(HOSTILE), tenants=[HOSTILE], reasons={HOSTILE: 1}, rows_read=1, rows_loaded=0, quarantined=1
    )
    shown.console.print(importing._import_table([summary]))
    assert_plain(shown.printed())


def test_an_explained_prediction_is_plain(shown):
    item = SimpleNamespace(feature=HOSTILE, value=HOSTILE, adds=0.5)
    found = SimpleNamespace(
        tenant=HOSTILE, model=HOSTILE, entity=HOSTILE, value=1.0, lower=0.5, upper=2.0, version=1, semantic="1.0.0",
        candidate=HOSTILE, outcome=None, contributions=[item], in_log_odds=False, offset=1.0, baseline=1.0, words={},
        experts=(), neighbours=(SimpleNamespace(entity=HOSTILE, outcome=1.0),),
    )  # fmt: skip
    spec = SimpleNamespace(task="regression", label=SimpleNamespace(unit=HOSTILE))
    for line in prediction._sentences(found, spec):
        shown.console.say(*line)
    shown.console.print(prediction._table(found))
    found.experts = (SimpleNamespace(name="neighbours:10", weight=1.0, prediction=1.0),)
    for line in prediction._sentences(found, spec):
        shown.console.say(*line)
    shown.console.print(prediction._experts(found, spec))
    assert_plain(shown.printed())


def test_an_error_of_a_command_does_nothing_to_the_terminal():
    import click
    from click.testing import CliRunner

    from ml_pipeline.specs import SpecError

    @click.group(cls=common.Group)
    def group() -> None: ...

    @group.command()
    @click.argument("how")
    def fail(how: str) -> None:
        raise SpecError(HOSTILE) if how == "spec" else click.BadParameter(HOSTILE)

    for how in ("spec", "parameter"):
        result = CliRunner().invoke(group, ["fail", how], color=True)
        assert result.exit_code in (1, 2)
        assert_plain(result.stderr)


def notice() -> Notice:
    alert = Alert("7f3e", HOSTILE, "HIGH", HOSTILE, AT, detail={"reason": HOSTILE})
    return Notice(HOSTILE, HOSTILE, (alert,))


def test_slack_gets_text_without_markup_calls_links_or_emoji():
    message = slack_message(notice())
    parts = [part.get("text") or part["elements"][0] for part in message["blocks"]]
    assert {(part["type"], part["emoji"]) for part in parts} == {("plain_text", False)}
    assert all(len(part["text"]) <= 3000 for part in parts)
    assert not any(CONTROL.search(part["text"]) for part in parts)
    assert message["mrkdwn"] is False
    assert "<" not in message["text"] and "@here" not in message["text"]
    assert "&lt;!channel&gt; &lt;@U1&gt;" in message["text"]


def test_a_mail_has_the_headers_that_it_was_given_and_no_line_that_poses_as_ours():
    mail = mail_message(notice(), "a@example.org", ("b@example.org",))
    assert mail["Bcc"] is None and "\n" not in mail["Subject"] and not CONTROL.search(mail["Subject"])
    text = mail.get_content()
    assert not CONTROL.search(text)
    assert not any(line.startswith(("acme", "Bcc")) for line in text.splitlines())
    assert mail.get_content_type() == "text/plain"


def test_the_log_gets_one_line(caplog):
    with caplog.at_level("WARNING"):
        Log().send(notice())
    (record,) = caplog.records
    assert not CONTROL.search(record.getMessage()) and "\n" not in record.getMessage()


MARKUP = re.compile(r"(?<!\\)[<\[*_`|]")


def test_markdown_says_nothing_but_the_text():
    assert not MARKUP.search(display.markdown(HOSTILE).replace("\\\\", ""))
    assert "\n" not in display.markdown(HOSTILE)
    assert not CONTROL.search(display.markdown(HOSTILE))
    fence = re.match("`+", display.code(HOSTILE)).group()
    assert fence not in display.code(HOSTILE)[len(fence) : -len(fence)]
    assert not re.search(r"(?<!\\)\|", display.code(HOSTILE))


def test_dagsters_pages_get_links_only_where_we_made_them():
    assert "https://" not in display.markdown("see https://evil.example")
    shown = metadata({"reason": "https://evil.example", "notes": HOSTILE, "test": [(HOSTILE, 1.0, 2.0)]})
    assert shown["ml_pipeline/reason"] == "https://evil.example"
    assert "<img" not in shown["ml_pipeline/test"].value and "[f](" not in shown["ml_pipeline/test"].value
    assert len(shown["ml_pipeline/test"].value.splitlines()) == 5
    (asset,) = broken_assets([BrokenSpec(HOSTILE, HOSTILE)])
    assert "<img" not in asset.description and "[f](" not in asset.description
    assert DESCRIPTIONS


def test_a_command_that_is_a_remedy_names_the_tenant_and_nothing_else():
    line = display.command("ml-pipeline", "rollback", "--tenant", "o'brien; rm -rf /", "--model", "$(id)")
    assert shlex.split(line) == ["ml-pipeline", "rollback", "--tenant", "o'brien; rm -rf /", "--model", "$(id)"]
    hostile = display.command("ml-pipeline", "rollback", "--tenant", HOSTILE)
    assert not CONTROL.search(hostile) and "\n" not in hostile


def test_a_pasted_command_runs_one_program_with_the_tenant_as_its_word():
    import subprocess

    line = display.command("printf", "%s", HOSTILE)
    run = subprocess.run(["bash", "-c", line], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert run.stdout.decode() == HOSTILE


FORBIDDEN = {
    r"\[/?(?:bold|red|green|yellow|dim|link)\b[^\]]*\]": "markup inside a text; give the style beside it",
    r"\bConsole\(": "a console of its own; take those of cli/common.py",
    r"from rich\.markup": "Rich's markup; text is text",
    r"highlight=": "an option of a console; those of cli/common.py have it",
    r"--tenant \{": "a command line made of text; take display.command",
    r"MetadataValue\.md\(f": "Markdown made of text; take display.markdown or display.code",
}


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_no_output_is_made_in_another_way(pattern):
    package = Path(display.__file__).parent
    found = [
        f"{path.relative_to(package)}:{number}: {FORBIDDEN[pattern]}"
        for path in sorted(package.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(pattern, line) and path.name != "common.py" and "raise ImportFailed" not in line
    ]
    assert found == []
