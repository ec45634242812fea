"""What every part of a specification has in common: unknown keys are refused, and nothing is changed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
