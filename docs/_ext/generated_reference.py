"""Tables of settings and of specification keys, generated from the pydantic models.

``{settings-table} package.module:Class`` lists the environment variables of a settings class and makes each a target of
the role ``envvar``; ``{specification-keys} package.module:Class`` lists the keys of a specification, a section a part.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

PROJECT_ROOT = Path(__file__).resolve().parents[2]
_LEADING_VARIABLE = re.compile(r"([A-Z][A-Z0-9_]{2,})\.\s*")
_SIMPLE = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
_PLURALS = {"text": "texts", "number": "numbers", "whole number": "whole numbers", "path": "paths", "part": "parts"}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


class Row(NamedTuple):
    """One setting or key; all texts are Markdown. ``refers_to`` is the part that the value consists of."""

    name: str
    type: str
    default: str
    description: str
    refers_to: str | None = None


class SpecificationPart(NamedTuple):
    """The keys below one key of a specification; ``path`` is empty for the file itself."""

    path: str
    summary: str
    rows: list[Row]


def settings_rows(settings: type[BaseModel]) -> list[Row]:
    """The environment variables that a settings class reads, in the order of its fields."""
    schema = settings.model_json_schema()
    definitions = schema.get("$defs", {})
    rows = []
    for name, field in settings.model_fields.items():
        variable, description = _variable(settings, name, field)
        property_ = schema["properties"].get(name) or schema["properties"][variable]
        rows.append(Row(variable, type_text(property_, definitions), _default_of(field), description))
    return rows


def _variable(settings: type[BaseModel], name: str, field: FieldInfo) -> tuple[str, str]:
    """The variable that a field is read from, and the description without that name."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        alias = alias.choices[0]
    description = field.description or ""
    leading = _LEADING_VARIABLE.match(description)
    if isinstance(alias, str):
        return alias.upper(), description.removeprefix(f"{alias.upper()}.").strip()
    if leading:
        return leading[1], description[leading.end() :]
    prefix = settings.model_config.get("env_prefix")
    if prefix is None:
        raise ExtensionError(
            f"{settings.__name__}.{name}: nothing says which environment variable it is. Give the field a validation "
            "alias, the class an env_prefix, or begin the description with the variable and a full stop."
        )
    return f"{prefix}{name}".upper(), description


def specification_parts(specification: type[BaseModel]) -> list[SpecificationPart]:
    """The keys of a specification; a nested part follows the part that contains it."""
    schema = specification.model_json_schema()
    return list(_parts(schema, "", schema.get("$defs", {})))


def _parts(schema: dict[str, Any], path: str, definitions: dict[str, Any]) -> Iterator[SpecificationPart]:
    rows, nested = [], []
    for key, property_ in schema.get("properties", {}).items():
        within, part = _nested(property_, f"{path}.{key}" if path else key, definitions)
        if part is not None:
            nested.append((within, part))
        required = key in schema.get("required", ())
        if required:
            default = "required"
        elif part is not None and isinstance(property_.get("default"), dict):
            default = "those of its keys"
        else:
            default = default_text(property_.get("default"))
        text = type_text(property_, definitions)
        meaning = property_.get("description") or (part or {}).get("description", "").partition("\n\n")[0]
        rows.append(Row(key, text, default, meaning, within if part is not None else None))
    yield SpecificationPart(path, schema.get("description", ""), rows)
    for within, part in nested:
        yield from _parts(part, within, definitions)


def _nested(property_: dict[str, Any], path: str, definitions: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """The nested part that is the value of a key, or None, and its path."""
    for schema, within in (
        (property_, path),
        *((choice, path) for choice in property_.get("anyOf", ())),
        (property_.get("items"), f"{path}[]"),
        (property_.get("additionalProperties"), f"{path}.<name>"),
    ):
        if isinstance(schema, dict) and "$ref" in schema:
            part = definitions[schema["$ref"].rpartition("/")[2]]
            if "properties" in part:
                return within, part
    return path, None


def type_text(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Description of the allowed values.

    >>> type_text({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}, {})
    'number above 0'
    >>> type_text({"type": "array", "items": {"enum": ["LOW", "HIGH"], "type": "string"}}, {})
    'list of `LOW` or `HIGH`'
    """
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        return "part" if "properties" in target else type_text(target, definitions)
    if "anyOf" in schema:
        texts = [type_text(choice, definitions) for choice in schema["anyOf"] if choice.get("type") != "null"]
        return ", or ".join(dict.fromkeys(texts))
    if "enum" in schema or "const" in schema:
        values = [f"`{value}`" for value in schema.get("enum", [schema.get("const")])]
        return " or ".join(filter(None, [", ".join(values[:-1]), values[-1]]))
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])}"
        item = type_text(schema.get("items", {}), definitions)
        return f"list of {_PLURALS.get(item, item)}"
    if kind == "object":
        values = schema.get("additionalProperties")
        of = type_text(values, definitions) if isinstance(values, dict) else "anything"
        keys = type_text(schema["propertyNames"], definitions) if "propertyNames" in schema else "name"
        return f"mapping of {keys} to {of}"
    if schema.get("format") == "password":
        return "text, a secret"
    if schema.get("format") in ("path", "file-path", "directory-path"):
        return "path"
    text = _SIMPLE.get(str(kind), "anything")
    bounds = [f"{words} {schema[key]:g}" for key, words in _BOUNDS.items() if key in schema]
    return " ".join(filter(None, [text, " and ".join(bounds)]))


def default_text(value: Any) -> str:
    """Text of a default value, without folders of the machine that builds the site.

    >>> default_text(None), default_text({"HIGH": 0.1}), default_text(True)
    ('not set', '`HIGH: 0.1`', '`true`')
    """
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Path):
        for root, prefix in ((PROJECT_ROOT, ""), (Path.home(), "~/")):
            if value.is_relative_to(root):
                return f"`{prefix}{value.relative_to(root)}`"
        return f"`{value}`"
    if isinstance(value, dict):
        return f"`{', '.join(f'{key}: {item}' for key, item in value.items())}`" if value else "none"
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return ", ".join(default_text(item) for item in value)
    if isinstance(value, list | tuple):
        return f"`{', '.join(str(item) for item in value)}`" if value else "none"
    return f"`{value}`" if value != "" else "empty"


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "depends on the machine" if field.default_factory is not None else default_text(field.default)


class _Reference(SphinxDirective):
    """Base of both directives, which take ``package.module:Class``."""

    required_arguments = 1
    columns: tuple[tuple[str, int], ...]

    def model(self) -> type[BaseModel]:
        module, _, name = self.arguments[0].partition(":")
        found: type[BaseModel] = getattr(importlib.import_module(module), name)
        package = Path(inspect.getfile(found)).parent
        for file in package.glob("*.py"):  # the parts of a specification
            self.env.note_dependency(str(file))
        return found

    def table(self, rows: list[list[nodes.Node]], headings: tuple[str, ...], widths: tuple[int, ...]) -> nodes.table:
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in widths), cols=len(widths))
        head = nodes.row("", *(nodes.entry("", nodes.paragraph("", heading)) for heading in headings))
        body = [nodes.row("", *(nodes.entry("", cell) for cell in row)) for row in rows]
        group += [nodes.thead("", head), nodes.tbody("", *body)]
        return nodes.table("", group, classes=["reference-table"])

    def text(self, markdown: str) -> nodes.paragraph:
        inline, messages = self.parse_inline(" ".join(markdown.split()))
        return nodes.paragraph("", "", *inline, *messages)

    def offset(self, name: str, prefix: str) -> tuple[nodes.paragraph, str]:
        identifier = nodes.make_id(f"{prefix}-{name}")
        return nodes.paragraph("", "", nodes.literal("", name, ids=[identifier])), identifier


class SettingsTable(_Reference):
    """Table with a row per environment variable."""

    def run(self) -> list[nodes.Node]:
        standard = self.env.domains.standard_domain
        rows = []
        for row in settings_rows(self.model()):
            name, identifier = self.offset(row.name, "envvar")
            standard.note_object("envvar", row.name, identifier, location=name)
            rows.append([name, self.text(row.type), self.text(row.default), self.text(row.description)])
        return [self.table(rows, ("Variable", "Value", "Default", "Meaning"), (28, 16, 14, 42))]


class SpecificationKeys(_Reference):
    """Sections with a table per part of a specification."""

    def run(self) -> list[nodes.Node]:
        sections: list[nodes.Node] = []
        for part in specification_parts(self.model()):
            title = nodes.literal("", part.path) if part.path else nodes.Text("The file")
            section = nodes.section("", nodes.title("", "", title), ids=[_section_id(part.path)])
            section += self.text(part.summary)
            rows = [self._row(part.path, row) for row in part.rows]
            section += self.table(rows, ("Key", "Value", "Default", "Meaning"), (20, 20, 16, 44))
            sections.append(section)
        return sections

    def _row(self, path: str, row: Row) -> list[nodes.Node]:
        name, _ = self.offset(row.name, f"key-{path}" if path else "key")
        kind = self.text(row.type)
        if row.refers_to is not None:
            reference = nodes.reference("", row.refers_to, internal=True, refid=_section_id(row.refers_to))
            kind = nodes.paragraph("", "see ", reference)
        return [name, kind, self.text(row.default), self.text(row.description)]


def _section_id(path: str) -> str:
    return nodes.make_id(f"keys-{path or 'file'}")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("specification-keys", SpecificationKeys)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
