"""What a check found: findings with a level, and the report that collects them."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "ok"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: where, what, and how to mend it."""

    level: Level
    field: str  # path in the recipe, for example specialists.text.source
    message: str
    fix: str = ""
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.field}: {self.message}" + (f"; {self.fix}" if self.fix else "")


class PreflightError(ValueError):
    """A recipe that would fail; the message lists every error found."""

    def __init__(self, errors: list[Finding]) -> None:
        self.errors = errors
        lines = [str(error) for error in errors]
        super().__init__(lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} errors in the recipe", *lines]))


@dataclass
class Report:
    """All findings, and the facts that they rest on (plain JSON values)."""

    findings: list[Finding] = field(default_factory=list)
    specialists: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)  # adapters that share a base
    memory: dict[str, Any] = field(default_factory=dict)
    licence: dict[str, Any] = field(default_factory=dict)

    def add(self, level: Level, field: str, message: str, fix: str = "") -> None:
        """Note one finding."""
        self.findings.append(Finding(level, field, message, fix))

    @property
    def errors(self) -> list[Finding]:
        """The findings that have to be mended first."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that deserve a look."""
        return [finding for finding in self.findings if finding.level == "warning"]

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way."""
        return not self.errors

    def raise_if_errors(self) -> None:
        """Raises PreflightError, a ValueError that lists every error, unless the report is ok."""
        if self.errors:
            raise PreflightError(self.errors)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "ok": self.ok,
            "findings": [asdict(finding) for finding in self.findings],
            "specialists": self.specialists,
            "groups": self.groups,
            "data": self.data,
            "memory": self.memory,
            "licence": self.licence,
        }
