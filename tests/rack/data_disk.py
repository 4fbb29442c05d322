"""A disk for data on a virtual Pi: a folder that /etc/fstab mounts on another, with a unit like a disk's."""

from cluster_tools import on
from rack_tools import RackUnderTest

BEHIND, MOUNT = "/srv/disk", "/mnt/ssd"
LINE = f"{BEHIND} {MOUNT} none bind 0 0"
BLOCKS = f"sudo find {MOUNT}/rpicluster -name 'blk_*' | wc -l"


def give_disk(rack: RackUnderTest, node: str) -> None:
    """Mount something on a node, with a file of its owner's on it, and name it in cluster.yml."""
    on(rack, node, f"sudo mkdir -p {BEHIND} {MOUNT} && sudo touch {BEHIND}/photo")
    mount_again(rack, node)
    path = rack.directory / "cluster.yml"
    text = path.read_text()
    assert f"  - name: {node}\n" in text
    path.write_text(text.replace(f"  - name: {node}\n", f"  - name: {node}\n    storage: {MOUNT}\n"))


def mount_again(rack: RackUnderTest, node: str) -> None:
    """Put the line into /etc/fstab, and mount it."""
    on(rack, node, f"echo '{LINE}' | sudo tee -a /etc/fstab && sudo systemctl daemon-reload")
    on(rack, node, f"sudo mount {MOUNT}")


def take_disk(rack: RackUnderTest, node: str) -> None:
    """Have the disk gone, for systemd and for everybody: as when its cable is pulled."""
    on(rack, node, "sudo systemctl stop mnt-ssd.mount", timeout=120)
    on(rack, node, f"sudo sed -i '\\|{MOUNT}|d' /etc/fstab && sudo systemctl daemon-reload")
