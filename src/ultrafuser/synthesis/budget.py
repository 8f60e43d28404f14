"""The budget: what was spent, what is under way, and whether one more request fits under the caps."""

from __future__ import annotations

from ultrafuser.synthesis.rows import Planned, Spent
from ultrafuser.synthesis.spec import Spec

__all__ = ["CHARACTERS_PER_TOKEN", "Meter", "prompt_tokens"]

CHARACTERS_PER_TOKEN = 3.5  # of English prose and code, on the safe side


def prompt_tokens(messages: object) -> int:
    """About how many tokens messages will be counted as."""
    assert isinstance(messages, list | tuple)
    return round(sum(len(message["content"]) for message in messages) / CHARACTERS_PER_TOKEN) + 8 * len(messages)


class Meter:
    """Counts what is spent. A request is sent if all under way may end at their longest without passing a cap."""

    def __init__(self, spec: Spec, spent: Spent) -> None:
        self.spent = spent
        self._budget = spec.budget
        self._prices = (
            max(endpoint.input_price for endpoint in spec.endpoints),
            max(endpoint.output_price for endpoint in spec.endpoints),
        )
        self._reserved = Spent()

    def reserve(self, planned: Planned) -> bool:
        """Set aside what a request may use at most; False where a cap stands in the way."""
        longest = self._longest(planned)
        if self._over(self.spent + self._reserved + longest) is not None:
            return False
        self._reserved += longest
        return True

    def release(self, planned: Planned) -> None:
        """Take back what was set aside."""
        longest = self._longest(planned)
        self._reserved = Spent(
            self._reserved.requests - longest.requests,
            self._reserved.prompt_tokens - longest.prompt_tokens,
            self._reserved.completion_tokens - longest.completion_tokens,
            self._reserved.cost - longest.cost,
        )

    def spend(self, spent: Spent) -> None:
        """Count what an answer used."""
        self.spent += spent

    def cap(self, planned: Planned) -> str:
        """What stands in the way of a request, in words."""
        name = self._over(self.spent + self._longest(planned))
        caps = {
            "requests": f"{self.spent.requests} requests are answered",
            "tokens": f"{self.spent.tokens:,} tokens are used",
            "money": f"{self.spent.cost:.4f} is spent",
        }
        cap = getattr(self._budget, str(name))
        return f"budget.{name}: {caps[str(name)]}, and one more request could pass the cap of {cap:,}"

    def _over(self, spent: Spent) -> str | None:
        caps = {"requests": spent.requests, "tokens": spent.tokens, "money": spent.cost - 1e-12}
        for name, used in caps.items():
            cap = getattr(self._budget, name)
            if cap is not None and used > cap:
                return name
        return None

    def _longest(self, planned: Planned) -> Spent:
        prompt, completion = prompt_tokens(planned.body["messages"]), planned.body["max_tokens"]
        cost = (prompt * self._prices[0] + completion * self._prices[1]) / 1e6
        return Spent(1, prompt, completion, cost)
