"""What grading may need: a sandbox for code, a checker for mathematical answers, a judge. Made when first used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ultrafuser.evaluation.judges import Judge
    from ultrafuser.evaluation.math_answers import MathChecker
    from ultrafuser.evaluation.sandbox import Sandbox

__all__ = ["Tools"]


@dataclass
class Tools:
    """Closed by the runner at the end (`with Tools() as tools`)."""

    judge: Judge | None = None
    make_sandbox: Callable[[], Sandbox] | None = None  # None: the strictest that this platform offers

    @cached_property
    def sandbox(self) -> Sandbox:
        """Runs generated programs. Raises ValueError where this platform cannot isolate them."""
        from ultrafuser.evaluation.sandbox import Sandbox

        return Sandbox() if self.make_sandbox is None else self.make_sandbox()

    @cached_property
    def math(self) -> MathChecker:
        """Compares mathematical answers in processes of its own."""
        from ultrafuser.evaluation.math_answers import MathChecker

        return MathChecker()

    def __enter__(self) -> Tools:
        return self

    def __exit__(self, *exc: object) -> None:
        for name in ("sandbox", "math"):
            tool = self.__dict__.get(name)
            if tool is not None:
                tool.close()
        if self.judge is not None:
            self.judge.close()
