"""What becomes of a cluster.yml that goes to another machine, and what a manager may be called."""

import pytest

from rpicluster.errors import UsageError
from rpicluster.model.destination import parse_destination
from rpicluster.model.spec import SshTarget
from rpicluster.model.specfile import parse_spec
from rpicluster.sites.adoption import rewritten

TEXT = """\
# the shelf in the lab
name: lab
users: [ana]  # more later
nodes:
  - name: pi1
    ssh: {host: pi1.lan, user: pi, port: 2222, config: "/home/ana/ssh_config"}
  - name: pi2
    ssh:
      host: pi2.lan  # upper board
      user: pi
      config: ~/lab/ssh_config
  - {name: pi3, ssh: {host: pi3.lan, user: pi}}
"""


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("pi1.lan", SshTarget(host="pi1.lan")),
        ("pi@192.168.1.11", SshTarget(host="192.168.1.11", user="pi")),
        ("pi@pi1:2200", SshTarget(host="pi1", user="pi", port=2200)),
        ("fd00::12", SshTarget(host="fd00::12")),
        ("pi@[fd00::12]:2200", SshTarget(host="fd00::12", user="pi", port=2200)),
    ],
)
def test_a_node_is_named_as_for_ssh(text: str, target: SshTarget) -> None:
    assert parse_destination(text, hint="") == target


@pytest.mark.parametrize(
    "text",
    ["", "@pi1", "pi@", "-oProxyCommand=id", "pi@-oProxyCommand=id", "a b@pi1", "pi@pi1:99999", "pi@pi1;id"],
)
def test_what_ssh_or_a_shell_would_read_as_something_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="says not where a node is"):
        parse_destination(text, hint="")


def test_cluster_yml_keeps_its_comments_and_loses_files_of_the_other_machine() -> None:
    text, notes = rewritten(TEXT, SshTarget(host="10.0.0.1", user="bo"))
    assert "# the shelf in the lab" in text and "# upper board" in text and "# more later" in text
    assert [note.partition(":")[0] for note in notes] == ["pi1", "pi2"]
    spec = parse_spec(text)
    assert [node.ssh for node in spec.nodes] == [
        SshTarget(host="10.0.0.1", user="bo"),
        SshTarget(host="pi2.lan", user="pi"),
        SshTarget(host="pi3.lan", user="pi"),
    ]
    assert spec.users == ("ana",)


def test_what_was_never_a_file_of_the_other_machine_is_not_mentioned() -> None:
    text = TEXT.replace(', config: "/home/ana/ssh_config"', "").replace(
        "      config: ~/lab/ssh_config\n", ""
    )
    assert rewritten(text, SshTarget(host="pi1.lan"))[1] == ()
