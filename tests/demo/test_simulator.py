from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_pipeline.demo.simulator import Drift, Organisation, demo_organisations, fleet, simulate
from ml_pipeline.demo.working_time import HOUR, add_working_hours
from ml_pipeline.resources.tables import issues as issues_table
from ml_pipeline.resources.tables import pull_requests as pull_requests_table

NOW = pd.Timestamp("2026-05-20 11:00", tz="UTC")
START = NOW - pd.Timedelta(days=365)
QUIET = Organisation("acme", 11, START, NOW, issues_per_week=30, pull_requests_per_week=24, people=12, teams=3)
MIDDLE = START + pd.Timedelta(days=180)
VISIBLE = ["issue_key", "issue_type", "team", "reporter", "priority", "created_at", "summary", "description"]
POINTS = {1.0, 2.0, 3.0, 5.0, 8.0, 13.0}


@pytest.fixture(scope="module")
def quiet():
    return simulate(QUIET)


def with_drift(kind, **changes):
    return simulate(replace(QUIET, drifts=(Drift(kind, MIDDLE, **changes),)))


def halves(frame):
    return frame[frame["created_at"] < MIDDLE], frame[frame["created_at"] >= MIDDLE]


def days(frame, until):
    return (frame[until] - frame["created_at"]).dt.total_seconds() / 86400


def as_known_at(frame, moment, columns_by_time):
    """The frame cut back by hand: later rows gone, later times empty, and with each time the values it made known."""
    known = frame[frame["created_at"] <= moment].copy()
    for time, columns in columns_by_time.items():
        known.loc[known[time] > moment, [time, *columns]] = None
    return known.reset_index(drop=True)


@pytest.mark.parametrize("name, table", [("issues", issues_table), ("pull_requests", pull_requests_table)])
def test_the_columns_are_those_of_the_source_table(quiet, name, table):
    assert ["tenant_id", *getattr(quiet, name).columns] == [column.name for column in table.columns]


def test_the_same_seed_gives_the_same_frames(quiet):
    again = simulate(QUIET)
    pd.testing.assert_frame_equal(again.issues, quiet.issues, check_exact=True)
    pd.testing.assert_frame_equal(again.pull_requests, quiet.pull_requests, check_exact=True)


def test_another_seed_gives_other_items(quiet):
    assert not simulate(replace(QUIET, seed=12)).issues["summary"].isin(quiet.issues["summary"]).all()


@settings(max_examples=8, deadline=None)
@given(day=st.integers(1, 364), drift=st.sampled_from(["covariate", "concept", "volume", "missing", "label"]))
def test_a_later_end_changes_nothing_that_was_known_before(day, drift):
    longer = replace(QUIET, drifts=(Drift(drift, MIDDLE, size=0.6, gradual_days=20),))
    moment = START + pd.Timedelta(days=day, hours=5)
    late, early = simulate(longer), simulate(replace(longer, end=moment))
    expected = as_known_at(late.issues, moment, {"started_at": [], "estimated_at": ["story_points"], "resolved_at": []})
    pd.testing.assert_frame_equal(early.issues, expected, check_exact=True)
    counts = ["review_cycles", "rework_commit_count", "changes_requested", "commits_after_first_review"]
    expected = as_known_at(late.pull_requests, moment, {"closed_at": counts})
    pd.testing.assert_frame_equal(early.pull_requests, expected, check_exact=True)


@pytest.mark.parametrize("kind", ["covariate", "concept", "volume", "missing", "label"])
def test_a_drift_changes_nothing_that_was_created_before_it(quiet, kind):
    drifted = with_drift(kind, size=0.7)
    for name in ("issues", "pull_requests"):
        before, _ = halves(getattr(drifted, name))
        undisturbed, _ = halves(getattr(quiet, name))
        pd.testing.assert_frame_equal(before, undisturbed, check_exact=True)


@pytest.mark.parametrize("name, key", [("issues", "issue_key"), ("pull_requests", "pull_request")])
def test_keys_are_unique_and_rows_come_in_order_of_creation(quiet, name, key):
    frame = getattr(quiet, name)
    assert frame[key].is_unique
    assert frame["created_at"].is_monotonic_increasing


def test_no_time_lies_outside_the_organisation(quiet):
    for frame in (quiet.issues, quiet.pull_requests):
        times = frame.select_dtypes("datetimetz")
        assert times.max().max() <= NOW
        assert frame["created_at"].min() >= START


def test_work_starts_after_creation_and_ends_after_its_start(quiet):
    issues = quiet.issues.dropna(subset=["resolved_at"])
    assert (issues["created_at"] <= issues["started_at"]).all()
    assert (issues["started_at"] <= issues["resolved_at"]).all()


def test_points_are_known_exactly_where_the_estimate_has_a_time(quiet):
    assert quiet.issues["story_points"].notna().equals(quiet.issues["estimated_at"].notna())
    assert set(quiet.issues["story_points"].dropna()) == POINTS


def test_estimates_come_one_to_ten_days_after_creation_and_before_the_work_is_done(quiet):
    estimated = quiet.issues.dropna(subset=["estimated_at"])
    assert days(estimated, "estimated_at").between(1, 10).all()
    assert not (estimated["resolved_at"] < estimated["estimated_at"]).any()


def test_about_four_in_five_stories_tasks_and_bugs_are_estimated_and_nothing_else(quiet):
    estimated = quiet.issues["story_points"].notna()
    pointed = quiet.issues["issue_type"].isin(["Story", "Task", "Bug"])
    assert 0.7 < estimated[pointed].mean() < 0.88
    assert not estimated[~pointed].any()


def test_about_six_percent_are_epics(quiet):
    assert (quiet.issues["issue_type"] == "Epic").mean() == pytest.approx(0.06, abs=0.02)


def test_epics_take_weeks_and_bugs_take_days(quiet):
    median = days(quiet.issues, "resolved_at").groupby(quiet.issues["issue_type"]).median()
    assert median["Epic"] > 21
    assert median["Bug"] < 10


def test_lead_times_are_heavy_tailed(quiet):
    lead = days(quiet.issues, "resolved_at").dropna()
    assert lead.mean() > 1.4 * lead.median()


def test_some_old_issues_are_never_resolved(quiet):
    old, _ = halves(quiet.issues)
    assert 0.01 < old["resolved_at"].isna().mean() < 0.1


def test_people_work_on_weekdays(quiet):
    assert (quiet.issues["created_at"].dt.day_of_week >= 5).mean() < 0.05
    assert (quiet.issues["resolved_at"].dropna().dt.day_of_week < 5).all()


def test_little_happens_around_christmas(quiet):
    week = quiet.issues["created_at"].between("2025-12-22", "2025-12-31").sum() / 9 * 7
    assert week < 0.7 * QUIET.issues_per_week


def test_the_weekly_volume_is_what_was_asked_for(quiet):
    weeks = 365 / 7
    assert len(quiet.issues) / weeks == pytest.approx(30, rel=0.1)
    assert len(quiet.pull_requests) / weeks == pytest.approx(24, rel=0.1)


def test_counts_of_a_review_agree_with_each_other(quiet):
    closed = quiet.pull_requests.dropna(subset=["closed_at"])
    assert (closed["review_cycles"] == closed["changes_requested"] + 1).all()
    assert ((closed["rework_commit_count"] > 0) == (closed["changes_requested"] > 0)).all()
    assert (closed["commits_after_first_review"] >= closed["rework_commit_count"]).all()


def test_open_pull_requests_have_no_outcome(quiet):
    pending = quiet.pull_requests[quiet.pull_requests["closed_at"].isna()]
    assert len(pending) > 0
    assert pending[["review_cycles", "rework_commit_count", "changes_requested"]].isna().all(axis=None)


def test_a_diff_has_a_line_and_a_file_at_least(quiet):
    assert (quiet.pull_requests["additions"] + quiet.pull_requests["deletions"] >= 1).all()
    assert (quiet.pull_requests[["additions", "deletions"]] >= 0).all(axis=None)
    assert (quiet.pull_requests["changed_files"] >= 1).all()


def test_people_leave_and_others_join():
    start = pd.Timestamp("2022-01-01", tz="UTC")
    issues = simulate(replace(QUIET, start=start)).issues
    first = set(issues["reporter"][issues["created_at"] < "2022-06-01"])
    last = set(issues["reporter"][issues["created_at"] > "2026-01-01"])
    assert first - last and last - first


def test_a_model_beats_the_median_of_the_points_by_a_tenth_to_a_half(quiet):
    issues = quiet.issues.dropna(subset=["story_points"])
    assert 0.1 < gain_over_median(issues, issues["story_points"]) < 0.5


def test_a_model_beats_the_median_of_the_log_lead_time_by_a_tenth_to_a_half(quiet):
    resolved = quiet.issues.dropna(subset=["resolved_at"])
    assert 0.1 < gain_over_median(resolved, np.log(days(resolved, "resolved_at"))) < 0.5


def test_a_model_ranks_rework_well_and_not_perfectly(quiet):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    closed = quiet.pull_requests.dropna(subset=["closed_at"])
    rework = ((closed["review_cycles"] > 2) | (closed["rework_commit_count"] > 3)).to_numpy()
    matrix = visible(closed, ["author", "author_kind", "repository"], "title", "body")
    lines = np.log(closed[["additions"]].to_numpy() + 1)
    matrix = np.hstack([matrix, lines])
    fitted = LogisticRegression(max_iter=500).fit(matrix[:800], rework[:800])
    assert 0.68 < roc_auc_score(rework[800:], fitted.predict_proba(matrix[800:])[:, 1]) < 0.85


def gain_over_median(issues, outcome):
    """1 - mean absolute error of a ridge regression / that of the median, on the last items."""
    from sklearn.linear_model import Ridge

    matrix = visible(issues, ["issue_type", "team", "reporter", "priority"], "summary", "description")
    known, later = outcome.to_numpy()[:800], outcome.to_numpy()[800:]
    predicted = Ridge(alpha=3.0).fit(matrix[:800], known).predict(matrix[800:])
    return 1 - np.abs(predicted - later).mean() / np.abs(np.median(known) - later).mean()


def visible(frame, categories, headline, body):
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(max_features=300).fit_transform(frame[headline] + " " + frame[body].fillna(""))
    return np.hstack([words.toarray(), pd.get_dummies(frame[categories]).to_numpy(dtype=float)])


@pytest.mark.parametrize("column", ["issue_type", "team", "priority"])
def test_without_a_drift_the_mix_of_a_column_stays(column):
    from scipy.stats import chi2_contingency

    p_values = []
    for seed in range(6):
        early, late = halves(simulate(replace(QUIET, seed=seed)).issues)
        counts = pd.DataFrame({"early": early[column].value_counts(), "late": late[column].value_counts()})
        p_values.append(chi2_contingency(counts).pvalue)
    assert np.median(p_values) > 0.1


def test_without_a_drift_points_lead_times_and_lengths_stay():
    from scipy.stats import ks_2samp

    p_values = []
    for seed in range(6):
        history = simulate(replace(QUIET, seed=seed, end=NOW + pd.Timedelta(days=400)))
        issues = history.issues[history.issues["created_at"] < NOW]  # so that the late ones had the time to be resolved
        early, late = halves(issues)
        measures = [
            (early["story_points"], late["story_points"]),
            (days(early, "resolved_at"), days(late, "resolved_at")),
            (early["summary"].str.len(), late["summary"].str.len()),
        ]
        p_values += [ks_2samp(a.dropna(), b.dropna()).pvalue for a, b in measures]
    assert np.mean(np.array(p_values) < 0.01) < 0.25


def test_a_covariate_drift_changes_who_writes_and_how_much(quiet):
    _, usual = halves(quiet.issues)
    _, drifted = halves(with_drift("covariate", size=0.6).issues)
    busiest = usual["reporter"].value_counts().index[:3]
    assert drifted["reporter"].isin(busiest).mean() > 1.3 * usual["reporter"].isin(busiest).mean()
    assert drifted["description"].str.len().mean() > 1.2 * usual["description"].str.len().mean()


def test_a_covariate_drift_makes_pull_requests_larger():
    before, after = halves(with_drift("covariate", size=1.0).pull_requests)
    assert after["additions"].median() > 1.5 * before["additions"].median()


def test_a_concept_drift_is_invisible_at_creation(quiet):
    drifted = with_drift("concept")
    pd.testing.assert_frame_equal(drifted.issues[VISIBLE], quiet.issues[VISIBLE], check_exact=True)


def test_a_concept_drift_turns_around_what_words_announce():
    before, after = halves(with_drift("concept").issues)

    def announced(issues):
        heavy = issues["summary"].str.contains("schema|migration|partition|replica|cluster|failover")
        light = issues["summary"].str.contains("typo|label|icon|tooltip|wording|caption")
        return issues["story_points"][heavy].mean() - issues["story_points"][light].mean()

    assert announced(before) > 1.0
    assert announced(after) < -1.0


def test_a_volume_drift_multiplies_the_arrivals(quiet):
    _, usual = halves(quiet.issues)
    for size in (1.0, -0.5):
        _, drifted = halves(with_drift("volume", size=size).issues)
        assert len(drifted) / len(usual) == pytest.approx(1 + size, rel=0.1)


def test_a_missing_drift_empties_fields():
    drifted = with_drift("missing", size=0.5)
    for frame, column, usual in [
        (drifted.issues, "priority", 0.05),
        (drifted.issues, "description", 0.12),
        (drifted.pull_requests, "additions", 0.0),
    ]:
        before, after = halves(frame)
        assert before[column].isna().mean() == pytest.approx(usual, abs=0.04)
        assert after[column].isna().mean() == pytest.approx(usual + (1 - usual) * 0.5, abs=0.08)


def test_a_label_drift_raises_every_outcome_and_nothing_visible(quiet):
    drifted = with_drift("label", size=1.0)
    pd.testing.assert_frame_equal(drifted.issues[VISIBLE], quiet.issues[VISIBLE], check_exact=True)
    _, usual = halves(quiet.issues)
    _, after = halves(drifted.issues)
    assert after["story_points"].mean() > 1.4 * usual["story_points"].mean()
    assert days(after, "resolved_at").median() > 1.4 * days(usual, "resolved_at").median()
    _, usual = halves(quiet.pull_requests)
    _, after = halves(drifted.pull_requests)
    assert after["changes_requested"].mean() > 1.2 * usual["changes_requested"].mean()


def test_a_gradual_drift_grows_over_its_days():
    drift = Drift("label", MIDDLE, size=0.8, gradual_days=10)
    moments = [MIDDLE.timestamp() + day * 86400 for day in (-1, 0, 5, 10, 30)]
    assert drift.strength(np.array(moments)).tolist() == pytest.approx([0, 0, 0.4, 0.8, 0.8])


def test_an_organisation_that_creates_nothing_has_empty_frames_of_the_same_columns(quiet):
    nothing = simulate(replace(QUIET, issues_per_week=0, pull_requests_per_week=0))
    assert len(nothing.issues) == len(nothing.pull_requests) == 0
    assert list(nothing.issues.columns) == list(quiet.issues.columns)
    assert nothing.pull_requests["created_at"].dtype == quiet.pull_requests["created_at"].dtype


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "sudden"}, "drift kind 'sudden' is unknown"),
        ({"kind": "concept", "size": 1.5}, "size 1.5 of a concept drift is not a share"),
        ({"kind": "volume", "size": -1.0}, "size -1.0 of a volume drift is too small"),
        ({"kind": "label", "at": pd.Timestamp("2026-01-01")}, "has no time zone"),
        ({"kind": "label", "gradual_days": -1}, "gradual_days is -1"),
    ],
)
def test_a_drift_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Drift(**{"at": MIDDLE, **changes})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"end": START}, "'acme': start .* is not before end"),
        ({"teams": 13}, "12 people in 13 teams"),
        ({"people": 2}, "2 people in 3 teams"),
        ({"issues_per_week": -1}, "-1 issues"),
        ({"start": pd.Timestamp("2025-01-01")}, "need a time zone"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_an_organisation_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(QUIET, **changes)


def test_the_demo_has_a_quiet_a_harmless_and_a_drifting_tenant():
    kinds = {each.tenant_id: [drift.kind for drift in each.drifts] for each in demo_organisations(NOW)}
    assert kinds == {"acme": [], "globex": ["covariate"], "initech": ["concept"], "umbrella": []}


def test_a_tenant_is_the_same_in_a_fleet_of_any_size():
    assert fleet(3, NOW) == fleet(50, NOW)[:3]


def test_half_of_a_fleet_creates_fewer_than_six_issues_a_week():
    sizes = [each.issues_per_week for each in fleet(1000, NOW)]
    assert np.median(sizes) == pytest.approx(6, rel=0.1)


MONDAY_9 = pd.Timestamp("2026-01-05 09:00", tz="UTC").timestamp()


@given(begin=st.integers(0, 14 * 86400), first=st.floats(0, 500), second=st.floats(0, 500))
def test_working_hours_add_up_and_never_go_back(begin, first, second):
    start = np.array([MONDAY_9 + begin])
    in_two_steps = add_working_hours(add_working_hours(start, np.array([first])), np.array([second]))
    at_once = add_working_hours(start, np.array([first + second]))
    at_dawn = 16 * HOUR  # the end of one working day and the start of the next are the same working time
    assert start <= at_once
    assert abs(in_two_steps - at_once) <= 2 or abs(abs(in_two_steps - at_once) % (24 * HOUR) - at_dawn) <= 2
