"""Pictures for agents, over the Model Context Protocol: `novita-async mcp`. Needs the extra `mcp`.

An agent repeats itself: after a timeout, after a crash, because it has forgotten. So each purchase has a key,
made from the content of the call and from its `variation`, and a journal in the folder keeps what became of
it: the same call again, also of another process, gives the same picture and costs nothing. A budget is
required, and counts all that the folder has ever bought.
"""

from novita_async.mcp._desk import Desk
from novita_async.mcp._server import make_server, serve

__all__ = ["Desk", "make_server", "serve"]
