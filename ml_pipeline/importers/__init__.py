"""Import of exports from other systems into the tables of the warehouse."""

from ml_pipeline.importers.github import import_github
from ml_pipeline.importers.jira import import_jira
from ml_pipeline.importers.load import import_tables
from ml_pipeline.importers.summary import ImportFailed, ImportSummary

__all__ = ["ImportFailed", "ImportSummary", "import_github", "import_jira", "import_tables"]
