"""Replay of a tenant's past, day by day: predictions, matured outcomes, monitoring, and decisions of the policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

import numpy as np

from ml_pipeline.lifecycle.policy import Policy
from ml_pipeline.lifecycle.promotion import FALL_BACK
from ml_pipeline.lifecycle.retraining import RetrainingDecision, decide
from ml_pipeline.lifecycle.rollback import Activation
from ml_pipeline.lifecycle.state import Champion, DegradationFinding, DriftFinding, Flags, LastFit, State
from ml_pipeline.replay.history import History
from ml_pipeline.replay.learner import Fitted, Learner
from ml_pipeline.replay.monitors import Monitors
from ml_pipeline.replay.result import AlertRaised, BlockedTrigger, DayLoss, Fit, Replay, Rollback
from ml_pipeline.replay.shadow import Shadow
from ml_pipeline.stats import losses
from ml_pipeline.training.trained import TrainingError

ON = Flags(True, True, True)
BLOCK_DAYS = 28  # days predicted in one batch; days after a later deployment are predicted again
ALERTING = ("HIGH", "CRITICAL")


def replay(
    learner: Learner,
    policy: Policy,
    *,
    drift_every: int = 7,
    watched: bool = True,
    changes: Sequence[date] = (),
    progress: Callable[[date], None] = lambda day: None,
) -> Replay:
    """Simulate what ``policy`` would have done on the learner's history.

    The first version is trained as soon as there are enough labels, whatever the policy. From then on the policy
    decides at the end of each day, with every feature flag on and without restriction to certain hours. An entity is
    predicted at its event time by the version that served at the midnight before. The monitors use the outcomes known
    at the end of the day.

    Parameters
    ----------
    learner : Learner
        Fits the versions; share one between policies to reuse fits.
    policy : Policy
        The retraining policy.
    drift_every : int
        Days between two drift reports; degradation is tested on every day with new outcomes.
    watched : bool
        Whether monitors and the rollback watch run. A policy that uses only the calendar replays faster without them.
    changes : sequence of date
        Days of known changes; the result contains the delay until each one was noticed.
    progress : callable
        Called with each day after it is replayed. A ``KeyboardInterrupt`` ends the replay with the days up to then.

    Returns
    -------
    Replay
        What the policy did, and the daily losses.
    """
    run = _Run(learner, policy.model_copy(update={"off_peak": None}), drift_every, watched)
    history = learner.history
    result = Replay(learner.spec.name, policy.name, history.first, history.last, changes=tuple(sorted(changes)))
    run.result = result
    try:
        for day in history.days:
            run.live(day)
            progress(day)
    except KeyboardInterrupt:
        result.interrupted = True
        result.last = result.days[-1].day if result.days else history.first
    result.values = run.scored["value"]
    return result


@dataclass
class _Serving:
    """The serving version: a champion, or the baseline of the newest fit before the first promotion."""

    fitted: Fitted
    number: int  # 0 for the baseline of a fit that was not promoted
    since: datetime


@dataclass
class _Run:
    """State of a replay."""

    learner: Learner
    policy: Policy
    drift_every: int
    watched: bool
    result: Replay = field(init=False)
    serving: _Serving | None = None
    last_fit: LastFit | None = None
    last_training: LastFit | None = None
    last_attempt: datetime | None = None
    shadow: Shadow | None = None  # set while the rollback watch of the newest promoted version is undecided
    rolled_back_at: datetime | None = None
    consecutive_rejections: int = 0
    versions: int = 0
    drift: DriftFinding | None = None
    degradation: DegradationFinding | None = None
    baseline: float = np.nan

    def __post_init__(self) -> None:
        self.history: History = self.learner.history
        self.monitors = Monitors(self.history)
        rows = len(self.history.frame)
        self.scored = {name: np.full(rows, np.nan) for name in ("value", "lower", "upper", "baseline")}
        self.version = np.full(rows, -1)
        self.scored_to = 0  # rows before this one are predicted by the serving version, or arrived before it
        self.alerting: set[str] = set()

    def live(self, day: date) -> None:
        """Simulate one day, from midnight to midnight."""
        self._score(day)
        self._monitor(day)
        now = _midnight(day + timedelta(days=1))
        self._watch(day, now)
        if self.last_fit is not None:
            since = self.degradation.since if self.degradation else None
            decision = decide(self._state(day, now, since), self.policy)
            if decision.verdict == "blocked":
                self._record_block(day, decision)
            elif decision.action is not None:
                self._fit(day, now, decision.action, str(decision.trigger), decision.severity, decision.reason, since)
        elif self.history.new_labels(None, now) >= self.learner.spec.training.min_rows:
            self._fit(day, now, "train", "first", None, "There are enough labels for a first version.")
            if self.serving is not None:
                self.baseline = self.serving.fitted.baseline
        self.result.days.append(self._losses(day))

    def _score(self, day: date) -> None:
        """Predict the entities of the day with the version that served at its first midnight."""
        if self.serving is None:
            return
        stop = self.history.arrived_before(day + timedelta(days=1))
        start = max(self.scored_to, self.history.arrived_before(day))
        if stop <= start:
            return
        last = self.history.arrived_before(min(day + timedelta(days=BLOCK_DAYS), self.history.last + timedelta(days=1)))
        rows = slice(start, last)
        if self.serving.number == 0:
            self.scored["value"][rows] = self.scored["baseline"][rows] = self.serving.fitted.baseline
            self.scored["lower"][rows] = self.scored["upper"][rows] = np.nan
        else:
            predicted = self.learner.predict(self.serving.fitted, rows)
            for name, values in self.scored.items():
                values[rows] = predicted[name].to_numpy()
        self.version[rows] = self.serving.number
        self.scored_to = last

    def _deploy(self, fitted: Fitted, number: int, now: datetime) -> None:
        self.serving = _Serving(fitted, number, now)
        self.scored_to = self.history.arrived_before(now.date())

    def _monitor(self, day: date) -> None:
        """Run the monitors: degradation on days with new outcomes, drift on its days."""
        serving, history = self.serving, self.history
        if serving is None or serving.number == 0 or not self.watched:
            return
        if history.matured_before(day + timedelta(days=1)) > history.matured_before(day):
            found = self.monitors.degradation(day, self.scored, self.version, serving.since)
            self.degradation = found
            rise = "" if found.rise is None else f"The loss has risen by {found.rise:.0%} on {found.outcomes} outcomes."
            self._raise("degradation", found.severity in ALERTING, day, found.severity, found.since, rise)
        if (day - history.first).days % self.drift_every == 0:
            report = self.monitors.drift(day, lambda: self.learner.reference(serving.fitted))
            self.drift = report
            self._raise("drift", report.alert, day, report.severity, None, report.reason)

    def _watch(self, day: date, now: datetime) -> None:
        """Roll back to the previous version if the newest one is significantly worse."""
        shadow = self.shadow
        if shadow is None:
            return
        verdict = shadow.verdict(now)
        if verdict.verdict == "watching":
            return
        self.shadow = None
        if verdict.verdict == "roll_back":
            version, previous = shadow.activation.version, shadow.activation.previous
            assert previous is not None  # without a previous version, the watch keeps the new one
            self._deploy(shadow.previous, previous, now)
            self.rolled_back_at = now
            self.result.rollbacks.append(Rollback(day, version, previous, verdict.reason))

    def _raise(
        self, kind: str, alerting: bool, day: date, severity: str | None, since: date | None, reason: str
    ) -> None:
        if alerting and kind not in self.alerting:
            self.result.alerts.append(AlertRaised(day, kind, severity, since, reason))
        (self.alerting.add if alerting else self.alerting.discard)(kind)

    def _state(self, day: date, now: datetime, since: date | None) -> State:
        fit, training, serving = self.last_fit, self.last_training, self.serving
        champion = None
        if serving is not None and serving.number:
            champion = Champion(serving.number, serving.fitted.as_of, serving.since)
        return State(
            tenant="",
            model=self.learner.spec.name,
            now=now,
            matured=self.history.new_labels(None, now),
            new_labels=self.history.new_labels(fit.at if fit else None, now),
            new_labels_since_training=self.history.new_labels(training.at if training else None, now),
            weekly_items=self.history.weekly_items(day),
            flags=ON,
            drift=self.drift,
            degradation=self.degradation,
            champion=champion,
            last_fit=fit,
            last_training=training,
            consecutive_rejections=self.consecutive_rejections,
            watching=self.shadow is not None,
            rolled_back_at=self.rolled_back_at,
            last_attempt=self.last_attempt,
            is_online=self.learner.spec.training.is_mixture,
            updates_left=self.learner.updates_left(serving.fitted) if champion and serving else None,
            labels_since_change=None if since is None else self.history.labels_of_arrivals(since, now),
        )

    def _record_block(self, day: date, decision: RetrainingDecision) -> None:
        blocked = self.result.blocked
        if blocked:
            newest = blocked[-1]
            same = (newest.trigger, newest.blocked_by) == (decision.trigger, decision.blocked_by)
            if same and newest.last == day - timedelta(days=1):
                newest.last, newest.days = day, newest.days + 1
                return
        blocked.append(BlockedTrigger(day, day, 1, str(decision.trigger), decision.blocked_by, decision.reason))

    def _fit(
        self,
        day: date,
        now: datetime,
        action: str,
        trigger: str,
        severity: str | None,
        reason: str,
        since: date | None = None,
    ) -> None:
        """Train or update a version, judge it, deploy it if promoted, and record the results."""
        self.last_attempt = now
        serving = self.serving
        champion = serving.fitted if serving is not None and serving.number else None
        number = serving.number if serving is not None and serving.number else None
        try:
            update = action == "update" and champion is not None
            changed_at = _midnight(since) if since is not None else champion.changed_at if champion else None
            fitted = self.learner.update(champion, now) if update and champion else self.learner.train(now, changed_at)
        except TrainingError as error:
            self.result.fits.append(Fit(day, action, trigger, severity, reason, "failed", str(error), None, 0.0))
            return
        judged = self.learner.judge(fitted, champion, number)
        if judged.verdict == FALL_BACK:
            fitted = self.learner.baseline_instead(fitted)
        promoted = judged.verdict != "reject"
        if promoted:
            self.versions += 1
            self.shadow = None
            if champion is not None and number is not None and self.watched:
                activation = Activation(self.versions, number, now, self.learner.spec.task)
                self.shadow = Shadow.of(self.learner, fitted, champion, activation)
            self._deploy(fitted, self.versions, now)
        elif champion is None:
            self._deploy(fitted, 0, now)
        self.last_fit = LastFit(now, "update" if update else "train", promoted)
        if not update:
            self.last_training = self.last_fit
            self.consecutive_rejections = 0 if promoted else self.consecutive_rejections + 1
        version = self.versions if promoted else None
        seconds = fitted.trained.seconds
        fit = Fit(day, action, trigger, severity, reason, judged.verdict, judged.reason, version, seconds)
        self.result.fits.append(fit)

    def _losses(self, day: date) -> DayLoss:
        history = self.history
        stop = history.matured_before(day + timedelta(days=1))
        rows = history.by_label_time[history.matured_before(day) : stop]
        rows = rows[self.version[rows] >= 0]
        label = history.label[rows]
        rolling = history.rolling_baseline[rows]
        predictions = {
            "loss": self.scored["value"][rows],
            "baseline": np.full(len(rows), self.baseline),
            "rolling": np.where(np.isnan(rolling), self.baseline, rolling),
        }
        sums = {
            name: float(losses(history.spec.task, label, prediction).sum()) for name, prediction in predictions.items()
        }
        serving = self.serving.number or None if self.serving is not None else None
        return DayLoss(day, len(rows), version=serving, **sums)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
