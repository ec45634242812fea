import os
import signal
import subprocess
import sys

from ml_pipeline.resources import cores
from ml_pipeline.settings import Settings


def with_workers(folder, count) -> Settings:
    return Settings(home=folder, workers=count)


def test_no_more_cores_are_taken_than_there_are(tmp_path):
    settings = with_workers(tmp_path, 3)
    with (
        cores.acquire_cores(settings, 1) as first,
        cores.acquire_cores(settings, 5) as second,
        cores.acquire_cores(settings, 1) as third,
    ):
        assert (first, second, third) == (1, 2, 0)


def test_cores_are_free_again_afterwards(tmp_path):
    settings = with_workers(tmp_path, 2)
    with cores.acquire_cores(settings, 2):
        pass
    with cores.acquire_cores(settings, 2) as count:
        assert count == 2


def test_who_wants_none_gets_none(tmp_path):
    with cores.acquire_cores(with_workers(tmp_path, 2), 0) as count:
        assert count == 0


def test_the_cores_of_a_process_that_was_killed_are_free(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from ml_pipeline.resources import cores; "
        "from ml_pipeline.settings import Settings\n"
        "with cores.acquire_cores(Settings(home=Path(sys.argv[1]), workers=1), 1) as count: print(count, flush=True); "
        "time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "1\n"
    with cores.acquire_cores(with_workers(tmp_path, 1), 1) as while_it_lives:
        assert while_it_lives == 0
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    with cores.acquire_cores(with_workers(tmp_path, 1), 1) as afterwards:
        assert afterwards == 1
