# The part of the facts that sees more as root; sent on stdin to `sh -s MARK HOW`. Writes nothing.

section() {
  printf '\n%s begin %s\n' "$mark" "$1"
  shift
  "$@" 2>/dev/null
  printf '\n%s end %s\n' "$mark" "$?"
}

# Only process id, user, systemd unit, and words that name a Hadoop or Spark class or our own mark leave
# the node: the rest of a command line may hold secrets. A container has no mark of ours, but our unit.
see_daemons() {
  # busybox has a ps without these columns: nothing seen must not look like nothing there.
  all=$(ps -ww -eo pid=,user:32=,args=) || return 127
  printf '%s\n' "$all" | awk '
    {
      line = $1 " " $2; found = 0
      for (i = 3; i <= NF; i++) {
        if ($i ~ /^-Drpicluster\.unit=/) line = line " " $i
        else if ($i ~ /^org\.apache\.(hadoop|spark|hive|hbase|zookeeper|livy|zeppelin|flink)\.[A-Za-z0-9_.$]+$/) { line = line " " $i; found = 1 }
      }
      if (!found) next
      cgroup = "/proc/" $1 "/cgroup"
      while ((getline text < cgroup) > 0)
        if (match(text, /[^\/]*\.service/)) unit = substr(text, RSTART, RLENGTH)
      close(cgroup)
      print line, "unit=" unit
      unit = ""
    }'
}

see_package_managers() {
  ps -eo pid=,comm= | awk '$2 ~ /^(apt|apt-get|aptitude|dpkg|unattended-upgr)$/ { print $1, $2 }'
}

# One path a line, from {"files": {"/path": {...}}}, however the JSON is laid out.
listed() {
  tr -d '\n' <"$manifest" | tr '}' '\n' | sed -n 's|.*"\(/[^"\\]*\)"[[:space:]]*:[[:space:]]*{.*|\1|p' | tr '\n' '\0'
}

see_hashes() {
  listed | xargs -0 -r sha256sum --
}

see_modes() {
  listed | xargs -0 -r stat -c '%a %U %n' --
}

# Sessions' tokens: in no manifest, because each node's own `up` draws them.
see_secrets() {
  find /var/lib/rpicluster -maxdepth 2 -path '*/session-*/token' -exec stat -c '%a %U %n' -- {} + || true
}

see_runtime() {
  readlink /opt/rpicluster/runtime || true
}

# Files of the runtime in use that are missing or have another size than its own list says, as a power cut leaves them.
see_runtime_damage() {
  list=/opt/rpicluster/runtime/rpicluster-runtime.json
  [ -e "$list" ] || return 0
  find -H /opt/rpicluster/runtime -type f -printf '%s %P\n' | awk '
    NR == FNR { size[substr($0, index($0, " ") + 1)] = $1; next }
    /^  "/ { name = $0; sub(/^  "/, "", name); sub(/": \{$/, "", name) }
    /^   "size_bytes": / { gsub(/[^0-9]/, ""); if (size[name] != $0) print name }' - "$list" | head -n 20
}

# Whose file system the NameNode's directory holds. A missing or empty directory prints nothing.
see_name_directory() {
  [ -n "$(ls -A "$names" 2>/dev/null)" ] || return 0
  sed -n '/^clusterID=/p' "$names/current/VERSION" | grep . || echo unknown
}

see_kernel_log() {
  dmesg | grep -E 'Under-?voltage|[Tt]hrottl|I/O error|EXT4-fs error|mmc[0-9].*(error|timeout)|Out of memory: Kill|oom-kill|uas_eh_|Remounting filesystem read-only|nvme.*(timeout|controller is down)|NETDEV WATCHDOG' | tail -n 40
}

# The rules of other firewalls, for nft shows those of ufw and iptables, too; without counters.
see_other_firewalls() {
  nft -s list ruleset | awk '/^table / { other = $3 != "rpicluster" } other' | head -c 200000
}

mark=$1
manifest=/var/lib/rpicluster/manifest.json
# By the manifest the data may lie on another disk: {"storage": {"path": "/mnt/ssd/rpicluster", ...}}.
data=$(tr -d '\n' 2>/dev/null <"$manifest" | sed -n 's|.*"storage"[[:space:]]*:[[:space:]]*{[[:space:]]*"path"[[:space:]]*:[[:space:]]*"\(/[^"\\]*\)".*|\1|p')
names=${data:-/var/lib/rpicluster}/namenode/name
section privilege printf '%s\n' "$2"
section daemons see_daemons
section listeners ss -Hltnpe
section package-managers see_package_managers
section firewall nft list tables
section other-firewalls see_other_firewalls
section runtime see_runtime
section runtime-damage see_runtime_damage
section name-directory see_name_directory
section kernel-log see_kernel_log
if [ -e "$manifest" ]; then
  section manifest cat "$manifest"
  section hashes see_hashes
  section modes see_modes
  section secrets see_secrets
fi
