"""Write what each machine of a plan holds, what the network between them carries, and what to run on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from .._base.foreign import shell_line
from .._base.units import format_mib
from .._devices import Gpu, Machine, machines
from .._estimate.estimate import DeviceEstimate
from .._planner.link import DEFAULT_GBITS, Link
from .._planner.plan import Plan
from .look import PLAIN, Look
from .tables import render_table

if TYPE_CHECKING:
    from .schema import MachineJson

__all__ = ["machine_rows", "machines_as_schema", "machines_text", "network_sentence", "server_commands"]

_HEAD: Final = (
    "machine",
    "cards MiB",
    "host MiB",
    "KiB a token to",
    "and from",
    "MiB a batch to",
    "and from it",
)
# As the engine numbers devices of each backend.
_DEVICES: Final = {
    "cuda": "CUDA",
    "hip": "ROCm",
    "vulkan": "Vulkan",
    "metal": "MTL",
    "sycl": "SYCL",
    "cpu": "CPU",
}


def machines_text(plan: Plan, look: Look = PLAIN) -> str:
    """Show machines as rows, what the network costs, and the command for each; "" for a plan on one machine."""
    if not machines(plan.gpus):
        return ""
    head, *rows = machine_rows(plan)
    parts = [render_table(head, rows, look=look), look.paragraph(network_sentence(plan))]
    lines = [f"  on {name}:  {command}" for name, command in server_commands(plan.gpus)]
    parts.append(
        "\n".join(
            [look.paragraph("Start these first, of the same build, on a network that you trust:"), *lines]
        )
    )
    return "\n\n".join(parts)


def machine_rows(plan: Plan) -> list[list[str]]:
    """List what each machine holds, and what crosses to it and from it; a head, then a row for each."""
    link = plan.link()
    rows = [list(_HEAD)]
    for n, m in enumerate(machines(plan.gpus)):
        held = sum(plan.estimate.gpus[i].total for i in m.gpus)
        row = [m.name, format_mib(held), "" if m.endpoint else format_mib(plan.estimate.host.total)]
        if link is None or not m.endpoint or m not in link.machines:
            rows.append([*row, "", "", "", ""])
            continue
        token, batch = link.token[n], link.prompt[n]
        rows.append([*row, *(f"{x / 1024:,.1f}" for x in (token.received, token.sent)),
                     *(f"{x / 2**20:,.1f}" for x in (batch.received, batch.sent))])  # fmt: skip
    return rows


def network_sentence(plan: Plan) -> str:
    """Say how long a token waits for the network at least, and what that rests on."""
    link = plan.link()
    if link is None:
        return "What crosses the network is not known: the graph of this model is not."
    wait = f"a token waits at least {link.seconds * 1000:.2g} ms for it, before latency"
    return (
        f"Network: {_speed(link)}; {wait}. Counted at a full context, a batch of {link.n_ubatch} tokens; what one"
        " server hands to another goes by way of the machine that runs llama-server."
    )


def _speed(link: Link) -> str:
    speeds = " and ".join(f"{g:g} Gbit/s" for g in dict.fromkeys(link.gbits))
    return f"{DEFAULT_GBITS:g} Gbit/s assumed (--link names yours)" if link.assumed else speeds


def server_commands(gpus: Sequence[Gpu]) -> list[tuple[str, str]]:
    """List the machines with an rpc-server, and the line that starts it with the cards of the plan."""
    return [(m.name, _command(m, gpus)) for m in machines(gpus) if m.endpoint]


def _command(machine: Machine, gpus: Sequence[Gpu]) -> str:
    host, _, port = machine.endpoint.rpartition(":")
    bind = host if all(c.isdigit() or c == "." for c in host) else "0.0.0.0"
    seen: dict[str, int] = {}
    names = []
    for i in machine.gpus:
        backend = gpus[i].backend
        names.append("CPU" if backend == "cpu" else f"{_DEVICES[backend]}{seen.get(backend, 0)}")
        seen[backend] = seen.get(backend, 0) + 1
    return shell_line(["ggml-rpc-server", "-H", bind, "-p", port, "-d", ",".join(names)])


def machines_as_schema(plan: Plan) -> list[MachineJson]:
    """Make the pydantic objects of the machines; none for a plan on one."""
    from .schema import CrossingJson, MachineJson

    link, commands = plan.link(), dict(server_commands(plan.gpus))
    found = []
    for n, m in enumerate(machines(plan.gpus)):
        devices: list[DeviceEstimate] = [plan.estimate.gpus[i] for i in m.gpus]
        crosses = link is not None and n < len(link.token)
        found.append(MachineJson(
            name=m.name, endpoint=m.endpoint, command=commands.get(m.name, "") if m.endpoint else "",
            gpus=[d.name for d in devices], total=sum(d.total for d in devices),
            host=0 if m.endpoint else plan.estimate.host.total,
            link_gbits=link.gbits[n] if link and crosses else None,
            link_assumed=bool(crosses and plan.gpus[m.gpus[0]].link_gbits is None),
            token=CrossingJson(received=link.token[n].received, sent=link.token[n].sent) if link and crosses else None,
            batch=CrossingJson(received=link.prompt[n].received, sent=link.prompt[n].sent) if link and crosses else None,
        ))  # fmt: skip
    return found
