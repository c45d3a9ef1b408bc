"""`mcp`: pictures for agents."""

from typing import Annotated, Literal

from cyclopts import Parameter

from novita_async._client import NovitaClient
from novita_async._policy.spending import Budget
from novita_async.cli._exits import Exit
from novita_async.errors import ConfigurationError


async def mcp(
    *,
    budget: str,
    price: str,
    out: Annotated[str, Parameter(name=("--out", "-o"))] = "novita-mcp",
    transport: Literal["stdio", "http"] = "stdio",
    host: str = "127.0.0.1",
    port: int = 8765,
    images_per_minute: int | None = None,
) -> Exit:
    """Serve agents over the Model Context Protocol: edit and make pictures, within a budget.

    The tools are edit_image, generate_image, task_result, routes and balance. The same call again gives the
    same picture and costs nothing, also after a crash: a journal in the folder knows what was bought.

    Args:
        budget: The most that may be spent, in dollars, all runs with the same folder together.
        price: Dollars an image, which the API does not tell.
        out: Folder for pictures and journal, which one server at a time may use.
        transport: `stdio`, or `http`, at `/mcp`.
        host: Address to listen on, with `http`. Anybody who can reach the port can spend the budget.
        port: Port to listen on, with `http`.
        images_per_minute: The account's quota of pictures. Where it is not given, it is found out.
    """
    try:
        from novita_async.mcp import serve  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            problem=f"{error.name} is missing", advice="pip install 'novita-async[mcp]'"
        ) from error
    money = Budget(limit=budget, price=price)
    async with NovitaClient(budget=money, images_per_minute=images_per_minute) as client:
        await serve(client, out, transport=transport, host=host, port=port)
    return Exit.SUCCEEDED
