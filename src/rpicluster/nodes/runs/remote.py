"""The manager of a cluster behind SSH."""

from collections.abc import Iterator
from contextlib import contextmanager

from rpicluster.nodes.remote.commands import PYTHON, Nodes
from rpicluster.nodes.runs.channel import Channel, program
from rpicluster.nodes.ssh.stream import open_stream


class RemoteMachine:
    """A node behind SSH; runs are their user's, and systemd starts them as root says."""

    def __init__(self, nodes: Nodes, name: str, user: str) -> None:
        """Stand for node `name`, where the runs of `user` are."""
        self.name = name
        self._nodes, self._user = nodes, user

    @contextmanager
    def channel(self, *, as_root: bool = False) -> Iterator[Channel]:
        """Start the program as the user, or as root."""
        who = [] if as_root else ["runuser", "-u", self._user, "--"]
        with open_stream(
            self._nodes.ssh,
            self._nodes.targets[self.name],
            [*who, PYTHON, "-I", "-c", program("tool.py")],
            node=self.name,
            what="its runs",
            sudo=True,
            sudo_password=self._nodes.passwords.get(self.name),
        ) as stream:
            yield Channel(stream.process, self.name, stream.failure)
