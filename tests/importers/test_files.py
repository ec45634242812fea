"""Several files in one import: their names, and the tenants that their names would make."""

import os
from pathlib import Path

import pytest

from ml_pipeline.importers import ImportFailed
from ml_pipeline.importers.files import file_labels, refuse_files_of_one_tenant


@pytest.mark.parametrize(
    ("first", "second"),
    [("custA/Jira.csv", "custB/Jira.csv"), ("a/acme.csv", "a/acme.csv.gz"), ("acme.csv", "ACME.csv")],
)
def test_two_files_that_would_become_one_tenant_are_refused_by_name_with_the_remedy(first, second):
    with pytest.raises(ImportFailed, match=rf"{first} and {second} would both become the tenant .*--tenant"):
        refuse_files_of_one_tenant([Path("other.csv"), Path(first), Path(second)])


def test_files_of_different_tenants_and_one_file_given_twice_are_not_refused(tmp_path: Path):
    acme = tmp_path / "acme.csv"
    link = tmp_path / "more" / "acme.csv"
    link.parent.mkdir()
    acme.touch()
    link.symlink_to(acme)
    refuse_files_of_one_tenant([acme, link, Path(os.path.relpath(acme)), tmp_path / "globex.csv"])


def test_a_name_that_is_no_tenant_is_left_to_its_own_import():
    refuse_files_of_one_tenant([Path("a/b c.csv"), Path("b/b c.csv")])


def test_labels_are_as_short_as_keeps_them_apart():
    paths = [Path("x/one/Jira.csv"), Path("y/one/Jira.csv"), Path("two/Jira.csv"), Path("acme.csv"), Path("./acme.csv")]
    assert file_labels(paths) == ["x/one/Jira.csv", "y/one/Jira.csv", "two/Jira.csv", "acme.csv", "acme.csv"]


def test_links_that_run_in_a_circle_have_labels_too(tmp_path: Path):
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    (tmp_path / "a.csv").symlink_to(tmp_path / "b.csv")
    assert len(set(file_labels([tmp_path / "a.csv", tmp_path / "c.csv"]))) == 2
