"""How every command prints, fails, completes and starts: widths, JSON, exit codes, progress, imports."""

from __future__ import annotations

import datetime as dt
import io
import json
import subprocess
import sys
from dataclasses import replace

import click
import pytest
from click.testing import CliRunner, Result

from ml_pipeline.cli import alerts, common, completion, importing, loop, main, replay, status
from ml_pipeline.importers.summary import ImportSummary
from ml_pipeline.replay.result import Replay
from ml_pipeline.resources.preparation import is_prepared, newest_revision
from ml_pipeline.resources.warehouse import MIGRATIONS, Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.work.fleet import STATES, Status, counted, in_order

AT = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
WORDS = "the share of team Platform rose from 12% to 41% within the last 28 days, and so did others " * 2
ROW = Status(
    *("customer-one", "story_points", 12, "champion", None, 450, "mae", 1.23, 1.91, 0.35, "keep", WORDS, 41.0),
    *("drift CRITICAL", {}, "drifting", WORDS),
)


@pytest.fixture
def typed(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """Runs a command against the test's own installation."""
    for name, value in {"DATABASE_URL": settings.database_url, "ML_PIPELINE_HOME": settings.home}.items():
        monkeypatch.setenv(name, str(value))

    def run(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return run


@pytest.fixture(params=[100, 80])
def narrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """A console of so many columns in the place of every command's; the fixture's value returns its lines."""
    stream = io.StringIO()
    console = common.PlainConsole(file=stream, width=request.param)
    for module in (alerts, importing, loop, replay, status):
        monkeypatch.setattr(module, "output", console)

    def lines() -> list[str]:
        printed = stream.getvalue().splitlines()
        assert max(map(len, printed)) <= request.param
        return printed

    lines.console = console
    return lines


def test_status_is_a_line_a_model_with_whole_numbers(narrow):
    narrow.console.print(status._table([ROW, replace(ROW, tenant="globex", state="well", health=88.0)]))
    _, _, first, second = narrow()
    assert first.split()[:8] == ["customer-one", "story_points", "drifting", "12", "1.23", "1.91", "+35%", "41"]
    assert second.split()[:8] == ["globex", "story_points", "well", "12", "1.23", "1.91", "+35%", "88"]


def test_an_alert_keeps_every_word_in_narrow_lines(narrow):
    deliveries = [{"channel": name, "state": "sent", "last_error": None} for name in ("log", "webhook")]
    alert = {
        **{"alert_id": "7f3e9a01-0000", "as_of": AT, "tenant_id": "customer-one", "model": "story_points"},
        **{"level": "CRITICAL", "escalated_at": AT, "kind": "degradation", "occurrences": 12, "message": WORDS.strip()},
        **{"deliveries": deliveries, "acknowledged_at": AT, "acknowledged_by": "ann", "acknowledged_note": "seen"},
    }
    alerts._print(alert)
    assert " ".join(" ".join(narrow()).split()) == (
        "7f3e9a01 2026-01-31 12:00 CRITICAL (escalated) customer-one story_points: degradation, 12 times "
        f"{WORDS.strip()} sent: log sent, webhook sent; acknowledged by ann, 2026-01-31 12:00: seen"
    )


def test_a_decision_keeps_every_word_in_narrow_lines(narrow):
    guard = {"name": "rollback_cool_down", "passed": True, "overridden": None, "sentence": WORDS.strip()}
    numbers = {"safeguards": [guard], "business_close": 0.71, "business_close_baseline": 0.55}
    facts = {"version": 12, "as_of": AT, "verdict": "blocked", "reason": WORDS.strip(), "numbers": numbers}
    loop._print_decision("retraining", facts)
    printed = " ".join(" ".join(narrow()).split())
    assert "rollback_cool_down passed" in printed and printed.count("41%") == 4
    assert "business metrics: close 0.71 (baseline 0.55)" in printed


def test_an_import_keeps_its_counts_whole(narrow):
    summary = ImportSummary("exports/2026/january/customer-one.csv.gz", 1_234_567, 1_234_000, 0, 567, {}, ("acme",))
    summary.reasons.update({"created_at is not a time": 500, "story_points is not a number": 67})
    narrow.console.print(importing._import_table([summary]))
    assert {"1,234,567", "1,234,000", "567"} <= set(" ".join(narrow()).split())


def test_a_replay_keeps_its_figures_whole(narrow):
    class Done(Replay):
        def mean_loss(self, of: str = "served") -> float:
            return 1234.5

    days = {"first": dt.date(2025, 1, 1), "last": dt.date(2025, 12, 31)}
    narrow.console.print(replay._summary("customer-one", [Done("story_points", "every_batch", **days)]))
    printed = " ".join(narrow())
    assert printed.split().count("1234") + printed.split().count("1235") == 3 and "…" not in printed


def test_a_fleet_is_shown_by_its_counts_and_its_worst_models(monkeypatch, typed):
    fleet = [replace(ROW, tenant=f"t{number:04}", state="well", health=90.0) for number in range(2998)]
    fleet += [ROW, replace(ROW, tenant="globex", state="untrained", version=None, health=None)]
    monkeypatch.setattr("ml_pipeline.work.fleet.fleet_status", lambda *_: fleet)
    lines = typed("status").stdout.splitlines()
    assert lines[0] == "3,000 models of 3,000 tenants: 1 drifting, 1 untrained, 2,998 well"
    assert lines[3].startswith("customer-one") and lines[4].startswith("globex")
    assert len(lines) == 1 + 2 + status.LIMIT + 2
    assert lines[-2] == "2,970 more are not shown: use --limit, --unhealthy, --tenant, --model."
    assert len(typed("status", "--limit", 7).stdout.splitlines()) == 1 + 2 + 7 + 2
    unhealthy = json.loads(typed("status", "--unhealthy", "--json").stdout)
    assert [row["tenant"] for row in unhealthy] == ["customer-one", "globex"]
    assert len(json.loads(typed("status", "--json").stdout)) == 3000
    by_tenant = json.loads(typed("status", "--json", "--limit", 1, "--sort", "tenant").stdout)
    assert [row["tenant"] for row in by_tenant] == ["customer-one"]


def test_an_order_begins_with_the_worst_and_ends_with_what_is_not_known():
    rows = [replace(ROW, tenant=str(value), skill=value, health=value, state="well") for value in (None, 2.0, -1.0)]
    for order in ("skill", "health", "state"):
        assert [row.tenant for row in in_order(rows, order)] == ["-1.0", "2.0", "None"]
    assert list(counted([replace(ROW, state=state) for state in reversed(STATES)])) == list(STATES)


def commands(group: click.Group, *above: str):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield " ".join([*above, name]), command


def test_every_command_that_ends_prints_json_when_asked():
    without = {name for name, command in commands(main) if not any("--json" in one.opts for one in command.params)}
    assert without == {"completion", "demo", "up"}


def test_by_is_the_user_of_this_machine_wherever_it_is_asked_for():
    found = {name: one for name, command in commands(main) for one in command.params if one.name == "by"}
    assert set(found) == {"acknowledge", "feedback", "retrain", "set", "unset"}
    assert {one.default for one in found.values()} == {common.this_user}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("status", "--tenant", "nobody"), 2, "there is no tenant 'nobody'"),
        (("nonsense",), 2, "No such command 'nonsense'."),
        (("run",), 1, "There are no tenants. Import some"),
        (("set", "colour", "red", "--tenant", "acme"), 1, "there is no setting 'colour'"),
    ],
)
def test_an_error_of_a_command_asked_for_json_is_a_line_of_json(typed, words, code, message):
    result = typed(*words, "--json")
    assert (result.exit_code, result.stdout) == (code, "")
    found = json.loads(result.stderr.splitlines()[-1])
    assert found["exit_code"] == code and message in found["error"]
    plain = typed(*words)
    assert plain.exit_code == code and "{" not in plain.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, type("DagsterExecutionInterruptedError", (BaseException,), {})])
def test_an_interrupted_command_ends_with_130(error):
    @click.group(cls=common.Group)
    def group() -> None: ...

    @group.command()
    def wait() -> None:
        raise error

    result = CliRunner().invoke(group, ["wait"])
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


def test_the_help_says_what_the_exit_codes_mean():
    shown = CliRunner().invoke(main, ["--help"]).stdout
    assert all(f"\n    {code} " in shown for code in (0, 1, 2, 130))


def test_progress_without_a_terminal_is_a_line_at_most_once_a_second(monkeypatch):
    stream, now = io.StringIO(), [100.0]
    monkeypatch.setattr(common.time, "monotonic", lambda: now[0])
    advance = common._lines(common.PlainConsole(file=stream, width=80), "Training", 1_000)
    for _ in range(1_000):
        now[0] += 0.004
        advance("acme")
    assert stream.getvalue().splitlines() == [
        "Training: 0 of 1,000",
        *(f"Training: {done} of 1,000" for done in (250, 500, 750)),
        "Training: 1,000 of 1,000",
    ]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_script_of_each_shell_asks_the_command_itself(shell):
    script = CliRunner().invoke(main, ["completion", shell])
    assert script.exit_code == 0 and f"_ML_PIPELINE_COMPLETE={shell}_complete" in script.stdout


def completed(typed_so_far: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    words = typed_so_far.split(" ")
    for name, value in {"COMP_WORDS": typed_so_far, "COMP_CWORD": len(words) - 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_ML_PIPELINE_COMPLETE", "bash_complete")
        shown = CliRunner().invoke(main, [], prog_name="ml-pipeline", complete_var="_ML_PIPELINE_COMPLETE").stdout
    return [line.partition(",")[2] for line in shown.splitlines() if line]


def test_tenants_models_and_settings_are_completed(typed, settings: Settings, monkeypatch):
    for tenant in ("acme", "globex", "gringotts"):
        Warehouse(settings).add_tenant(tenant)
    assert completed("ml-pipeline status --tenant g", monkeypatch) == ["globex", "gringotts"]
    assert completed("ml-pipeline explain --model story", monkeypatch) == ["story_points"]
    assert completed("ml-pipeline unset auto_re", monkeypatch) == ["auto_retrain"]


def test_completion_offers_nothing_and_starts_nothing_where_no_database_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("ML_PIPELINE_HOME", str(tmp_path / "home"))
    assert completed("ml-pipeline status --tenant g", monkeypatch) == []
    assert not (tmp_path / "home").exists()


HEAVY = ("alembic", "dagster", "lightgbm", "mlflow", "optuna", "pandas", "scipy", "sklearn", "xgboost")
PROBE = f"""
import sys
from ml_pipeline.cli import main
for words in sys.argv[1:]:
    try:
        main(words.split(), standalone_mode=False)
    except SystemExit:
        pass
    print("IMPORTED", words, [name for name in {HEAVY} if name in sys.modules])
"""


def test_commands_that_only_read_import_nothing_heavy(typed, settings: Settings):
    Warehouse(settings).add_tenant("acme")
    light = ("--help", "set auto_retrain on --tenant acme", "status", "alerts", "acknowledge --all --tenant acme")
    of = "--tenant acme --model story_points"
    pandas_too = (f"explain {of}",)
    command = [sys.executable, "-c", PROBE, *light, *pandas_too]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("IMPORTED")]
    assert found == [f"IMPORTED {words} []" for words in light] + [
        f"IMPORTED {words} ['pandas']" for words in pandas_too
    ]


def test_a_database_with_everything_is_known_by_the_newest_migration(settings: Settings):
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [newest_revision()]
    assert is_prepared(settings)
