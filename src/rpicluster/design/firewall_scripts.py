"""Shell scripts, run as root on a node, that change its firewall without locking anybody out.

`apply_script` loads new rules and arms a timer that takes them back. `confirm_script`, sent over a *new* SSH
connection, stops the timer and keeps the rules for the next boot. Whoever lost the way in waits a minute.
"""

from rpicluster.design import layout
from rpicluster.design.firewall import NFT, TABLE
from rpicluster.design.systemd_text import plain_path
from rpicluster.model.facts import NodePaths

ROLLBACK = "rpicluster-firewall-rollback"
ROLLBACK_AFTER_S = 60
_END = "END-OF-RULES"


def _directory(paths: NodePaths) -> str:
    """Return where rules wait until they are confirmed: in /run, because a reboot must forget them."""
    return plain_path(f"{paths.run}/firewall")


def apply_script(paths: NodePaths, rules: bytes, rollback_after_s: int = ROLLBACK_AFTER_S) -> str:
    """Return the script that loads `rules`, which go again after `rollback_after_s` unless confirmed.

    It fails, and changes nothing, when the rules do not load or the timer cannot be armed.
    """
    text = rules.decode()
    if _END in text or not text.endswith("\n"):
        raise ValueError("these are not rules that rpicluster wrote")
    directory = _directory(paths)
    new, before = f"{directory}/new.nft", f"{directory}/before.nft"
    undo = f"if [ -s {before} ]; then {NFT} -f {before}; else {NFT} delete table {TABLE}; fi; rm -f {before}"
    return f"""set -eu
mkdir -p -m 0755 {directory}
cat >{new} <<'{_END}'
{text}{_END}
{NFT} -c -f {new}
if [ -e {before} ]; then
  # Rules that nobody confirmed are loaded: what stood before them is still what to go back to.
  systemctl stop {ROLLBACK}.timer 2>/dev/null || :
elif {NFT} list table {TABLE} >{before}.part 2>/dev/null; then
  {{ printf 'table {TABLE}\\ndelete table {TABLE}\\n'; cat {before}.part; }} >{before}
else
  : >{before}
fi
rm -f {before}.part
systemctl reset-failed {ROLLBACK}.service 2>/dev/null || :
systemd-run --quiet --collect --unit={ROLLBACK} --on-active={rollback_after_s} \\
  --timer-property=AccuracySec=1s /bin/sh -c '{undo}'
{NFT} -f {new}
"""


def confirm_script(paths: NodePaths) -> str:
    """Return the script that keeps what `apply_script` loaded; it fails when that was taken back already."""
    directory, unit = _directory(paths), layout.systemd_unit("firewall")
    new, before = f"{directory}/new.nft", f"{directory}/before.nft"
    kept = plain_path(f"{paths.conf}/{layout.FIREWALL}")
    return f"""set -eu
systemctl stop {ROLLBACK}.timer 2>/dev/null || :
if [ ! -e {before} ] || systemctl is-active --quiet {ROLLBACK}.service; then
  echo 'the firewall was taken back before it was confirmed' >&2
  exit 1
fi
# Enabled first: rules that are kept count as done, and must then be loaded at every boot.
systemctl enable --quiet {unit}
install -m 0644 {new} {kept}.part
mv {kept}.part {kept}
rm -f {before} {new}
systemctl start {unit}
"""
