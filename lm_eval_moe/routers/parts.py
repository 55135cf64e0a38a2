"""Each expert's own parameters and modules, as a block's structure shows them: no adapter is asked.

Experts come as a container of E modules (or several, one for each of their linears), or as parameters whose first
dimension counts them: ``[E, ..]`` with three dimensions or more, or ``[E * n, H]`` where nothing else is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lm_eval_moe.replacing import replaced

if TYPE_CHECKING:
    from lm_eval_moe.routers.blocks import RoutedBlock

__all__ = ["ExpertParts", "expert_parts"]

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class ExpertParts:
    """What belongs to one expert alone.

    Attributes:
        home: Name, inside the block, of the innermost module that holds all of it; empty for the block itself.
        containers: Containers of E modules, one for each expert.
        stacks: Modules with the name of a parameter whose first dimension counts the experts.
        count: Routed experts, E.
    """

    home: str
    containers: tuple[nn.Module, ...]
    stacks: tuple[tuple[nn.Module, str], ...]
    count: int

    def modules(self, expert: int) -> list[nn.Module]:
        """Return an expert's own modules, none if its parameters are a slice of larger ones."""
        return [list(container.children())[expert] for container in self.containers]

    @contextmanager
    def counted(self) -> Iterator[list[int]]:
        """Count the rows that each expert's own module is called with; all stay 0 where experts have no modules."""
        rows = [0] * self.count

        def counter(expert: int) -> Any:
            def count(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
                rows[expert] += tensors[0].numel() // tensors[0].shape[-1] if tensors else 0

            return count

        with ExitStack() as stack:
            if len(self.containers) == 1 and not self.stacks:
                for expert in range(self.count):
                    [module] = self.modules(expert)
                    stack.enter_context(module.register_forward_pre_hook(counter(expert), with_kwargs=True))
            yield rows

    def tensors(self, expert: int) -> Iterator[Tensor]:
        """Yield an expert's own parameters, which share the memory of the model's."""
        for module in self.modules(expert):
            yield from (parameter.detach() for parameter in module.parameters())
        for module, name in self.stacks:
            stack = module._parameters[name]
            assert stack is not None
            size = len(stack) // self.count
            yield stack.detach()[expert * size : (expert + 1) * size]

    @contextmanager
    def muted(self, expert: int) -> Iterator[None]:
        """Put zeros in place of an expert's parameters inside the ``with`` block; they come back in every bit."""
        tensors = list(self.tensors(expert))
        originals = [tensor.clone() for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.zero_()
            yield
        finally:
            for tensor, before in zip(tensors, originals, strict=True):
                tensor.copy_(before)

    @contextmanager
    def in_memory(self) -> Iterator[None]:
        """Load experts that accelerate has offloaded, for as long as the ``with`` block lasts."""
        roots = [*self.containers, *(module for module, _ in self.stacks)]
        modules = dict.fromkeys(module for root in roots for module in root.modules())
        with ExitStack() as stack:
            for module in modules:
                hook: Any = getattr(module, "_hf_hook", None)
                if getattr(hook, "offload", False):
                    hook.pre_forward(module)
                    stack.callback(hook.post_forward, module, None)
                    # Or else the module's own call would load its parameters again.
                    stack.enter_context(replaced(hook, "offload", False))
            yield


def expert_parts(module: nn.Module, block: RoutedBlock) -> ExpertParts | None:
    """Find what belongs to each expert alone.

    Args:
        module: The block.
        block: Its adapter; only the router, which is left out, and the number of experts are taken from it.

    Returns:
        The parts, None if nothing in the block comes E times.
    """
    count = block.num_experts
    routing = {id(part) for root in (block.router, block.owner) if root is not module for part in root.modules()}
    places: list[str] = []
    containers: list[nn.Module] = []
    stacks: list[tuple[str, nn.Module, str]] = []
    flat: list[tuple[str, nn.Module, str]] = []
    for name, part in module.named_modules():
        if id(part) in routing or any(name.startswith(f"{place}.") for place in places):
            continue
        if isinstance(part, _CONTAINERS) and len(part) == count and any(True for _ in part.parameters()):
            places.append(name)
            containers.append(part)
            continue
        for name_in_part, parameter in part.named_parameters(recurse=False):
            if parameter.dim() >= 3 and len(parameter) == count:
                stacks.append((name, part, name_in_part))
            elif parameter.dim() == 2 and len(parameter) % count == 0 and not isinstance(part, nn.Linear):
                flat.append((name, part, name_in_part))
    if not containers and not stacks:  # DBRX keeps its experts' matrices one below the other
        stacks = [
            (name, part, name_in_part)
            for name, part, name_in_part in flat
            if len(part._parameters[name_in_part]) > count  # type: ignore[arg-type]
        ]
    if not containers and not stacks:
        return None
    homes = [name.split(".") for name in (*places, *(name for name, _, _ in stacks))]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*homes, strict=False))
    home = ".".join(parts[0] for parts in shared)
    return ExpertParts(home, tuple(containers), tuple((part, name_in_part) for _, part, name_in_part in stacks), count)
