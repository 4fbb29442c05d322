# Collects facts on a node; sent on stdin to `sh -s MARK`. Prints sections of raw command output, each
# between `MARK begin NAME` and `MARK end STATUS`; nothing here fails as a whole when a command is missing.
# Must run under dash, bash and busybox, from Ubuntu 20.04 on. Writes nothing. The sender sets $root_part, and
# $no_sudo where nobody may be asked to become root.

# What commands complain of is dropped: a section's status tells.
# Functions that collect are called see_*: one called java would be what `command -v java` finds.
section() {
  printf '\n%s begin %s\n' "$mark" "$1"
  shift
  "$@" 2>/dev/null
  printf '\n%s end %s\n' "$mark" "$?"
}

# A dead network file system or a broken resolver must not take the whole answer with it.
limited() {
  if [ -n "$limit" ]; then timeout "$@"; else shift; "$@"; fi
}

# Many small files by one process: PATH:CONTENT, one line each.
files() {
  grep -sH '' "$@"
}

see_login() {
  id -u
  id -un
  printf '%s\n' "${SUDO_USER:-}"
}

see_architecture() {
  uname -srm
  dpkg --print-architecture || echo unknown
  getconf LONG_BIT || echo unknown
}

see_processor() {
  # The last lines of a Pi's cpuinfo name the board. flags are x86's word, Features is arm's.
  grep -E '^(processor|model name|flags|Features|CPU implementer|CPU part|Hardware|Revision|Serial|Model)[[:space:]]*:' /proc/cpuinfo
}

see_device_tree() {
  for name in model serial-number hat/product; do
    [ -r "/proc/device-tree/$name" ] && printf '%s=%s\n' "$name" "$(tr -d '\0' <"/proc/device-tree/$name")"
  done
  for name in system/linux,revision chosen/power/max_current chosen/power/usb_max_current_enable; do
    [ -r "/proc/device-tree/$name" ] && printf '%s=%s\n' "$name" "$(od -An -tx1 <"/proc/device-tree/$name" | tr -d ' \n')"
  done
  true
}

see_disks() {
  lsblk -J -b -o NAME,KNAME,PKNAME,TYPE,SIZE,RO,RM,ROTA,TRAN,VENDOR,MODEL,SERIAL,FSTYPE,LABEL,UUID
}

see_card() {
  files /sys/block/mmcblk*/device/type /sys/block/mmcblk*/device/name /sys/block/mmcblk*/device/date \
    /sys/block/mmcblk*/device/ssr /sys/block/mmcblk*/device/life_time /sys/block/mmcblk*/device/pre_eol_info \
    /sys/fs/ext4/*/lifetime_write_kbytes
}

see_disk_ids() {
  for link in /dev/disk/by-id/*; do
    [ -L "$link" ] && printf '%s %s\n' "$link" "$(readlink "$link")"
  done
  true
}

see_java() {
  for home in /usr/lib/jvm/* /opt/*; do
    # A name may be a link to another: only the folder itself counts.
    if [ -x "$home/bin/java" ] && [ ! -L "$home" ]; then
      printf '%s\t%s\n' "$home" "$(grep -s '^JAVA_VERSION=' "$home/release")"
    fi
  done
  found=$(command -v java) && printf 'PATH\t%s\n' "$(readlink -f "$found")"
  true
}

see_python() {
  found=$(command -v python3) && readlink -f "$found"
}

# Nothing is started: R says of each package what it is in a file.
see_r() {
  [ -e /usr/lib/R/library/base/DESCRIPTION ] || return 0
  for library in /opt/rpicluster/r/library /usr/local/lib/R/site-library /usr/lib/R/site-library /usr/lib/R/library; do
    grep -sHE '^(Version|Built):' "$library"/*/DESCRIPTION
  done | sed 's|/DESCRIPTION:\([VB]\)[a-z]*: *\(R \)\{0,1\}|:\1:|; s|;.*||'
  files /opt/rpicluster/r/done.json
  true
}

see_time_state() {
  [ -e /run/systemd/timesync/synchronized ] && echo timesyncd=synchronised
  if command -v chronyc >/dev/null; then
    limited 2 chronyc -c tracking | sed 's/^/chrony=/'
  fi
  # It starts a service of systemd's, 0.15 s, so it is asked only where nothing else can tell; a container
  # has its host's clock and none to keep.
  if [ ! -e /run/systemd/timesync/synchronized ] && [ ! -e /run/systemd/container ] &&
    ! command -v chronyc >/dev/null; then
    limited 3 timedatectl show -p NTPSynchronized -p NTP
  fi
  files /sys/class/rtc/rtc*/name /sys/class/rtc/rtc*/hctosys /sys/class/rtc/rtc*/device/battery_voltage \
    /sys/class/rtc/rtc*/battery_voltage
  true
}

# busybox has an ip that speaks no JSON: nothing seen must not look like nothing there.
see_addresses() {
  ip -j addr || return 127
}

see_links() {
  files /sys/class/net/*/speed /sys/class/net/*/duplex /sys/class/net/*/operstate
  for link in /sys/class/net/*; do
    [ -e "$link/device" ] && echo "$link/device:yes"
    [ -e "$link/wireless" ] && echo "$link/wireless:yes"
  done
  true
}

see_routes() {
  ip -j route show default || return 127
  ip -j -6 route show default
}

see_resolver() {
  files /etc/resolv.conf /run/systemd/resolve/resolv.conf
}

# Lines `WHAT BEFORE AFTER STATUS`, in seconds since boot; then what was found.
lookup() {
  read -r before _ </proc/uptime
  found=$(limited 1 getent "$2" "$3")
  status=$?
  read -r after _ </proc/uptime
  printf '%s %s %s %s\n' "$1" "$before" "$after" "$status"
  [ -z "$found" ] || printf '%s\n' "$found" | sed 's/^/= /'
}

see_lookups() {
  lookup name ahosts "$(uname -n)"
  # Hadoop's daemons look names of addresses up too; a resolver that only times out stalls them.
  address=$(ip -o -4 addr show scope global | awk 'NR == 1 { sub("/.*", "", $4); print $4 }')
  [ -z "$address" ] || lookup address hosts "$address"
}

see_cloud_init() {
  [ -e /run/cloud-init ] || return 1
  [ -e /run/cloud-init/result.json ] && echo finished
  grep -rsh '^[[:space:]]*manage_etc_hosts' /etc/cloud /var/lib/cloud/instance/cloud-config.txt
  true
}

see_host_keys() {
  cat /etc/ssh/ssh_host_*_key.pub
}

see_control_groups() {
  files /proc/cgroups /proc/self/cgroup /proc/cmdline /sys/fs/cgroup/cgroup.controllers
}

see_boot_files() {
  # /boot first: on Raspberry Pi OS since bookworm that one is only a note that it has moved.
  files /boot/cmdline.txt /boot/firmware/cmdline.txt
}

see_throttled() {
  if command -v vcgencmd >/dev/null && limited 3 vcgencmd get_throttled; then return; fi
  # Needs no membership of the group video.
  files /sys/devices/platform/soc/soc:firmware/get_throttled && return
  grep -sl '^rpi_volt' /sys/class/hwmon/hwmon*/name | while read -r name; do
    files "${name%name}in0_lcrit_alarm"
  done
}

see_temperature() {
  files /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp
}

see_units() {
  # A pattern shows loaded units only, and one that was stopped is not: so ours are also named. A template
  # (NAME@.service) is no unit, and asking for one would spoil the answer.
  ours=$(for file in /etc/systemd/system/rpicluster*[!@].service; do [ -e "$file" ] && echo "${file##*/}"; done)
  # shellcheck disable=SC2086  several words
  limited 5 systemctl show -p Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,MainPID,ExecMainStatus \
    'rpicluster*' $ours systemd-timesyncd.service chrony.service ntpsec.service ssh.service nftables.service ufw.service \
    firewalld.service unattended-upgrades.service apt-daily.service apt-daily-upgrade.service \
    NetworkManager.service dhcpcd.service systemd-networkd.service
}

see_virtualization() {
  systemd-detect-virt || true
}

facts() {
  mark=$1
  LC_ALL=C
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
  export LC_ALL PATH
  limit=
  timeout 1 true 2>/dev/null && limit=yes

  # The control machine sends a line as soon as it reads this one: the time between is one round trip.
  printf '%s ready\n' "$mark"
  IFS= read -r _
  exec </dev/null
  # Read before anything is printed: the first byte that arrives ends the round trip.
  now=$(date '+%s.%N %z')
  section clock printf '%s\n' "$now"

  section login see_login
  section architecture see_architecture
  section processor see_processor
  section device-tree see_device_tree
  section memory cat /proc/meminfo
  section disks see_disks
  section card see_card
  section disk-ids see_disk_ids
  section mounts cat /proc/self/mounts
  section space limited 5 df -P -k
  section swaps cat /proc/swaps
  section os files /etc/os-release /etc/rpi-issue
  section virtualization see_virtualization
  section java see_java
  section python see_python
  section r see_r
  section time see_time_state
  section addresses see_addresses
  section links see_links
  section routes see_routes
  section resolver see_resolver
  section names files /etc/hostname /proc/sys/kernel/hostname
  section hosts cat /etc/hosts
  section lookups see_lookups
  section identity files /etc/machine-id /proc/sys/kernel/random/boot_id /proc/uptime
  section host-keys see_host_keys
  section cgroups see_control_groups
  section boot-files see_boot_files
  section throttled see_throttled
  section temperature see_temperature
  section cloud-init see_cloud_init
  section units see_units
  section system limited 5 systemctl is-system-running

  if [ "$(id -u)" = 0 ]; then
    printf '%s\n' "$root_part" | sh -s "$mark" root
  elif [ -n "$no_sudo" ]; then
    printf '%s\n' "$root_part" | sh -s "$mark" none
  else
    # One sudo: each writes to the node's log, and asks a resolver for the host's own name.
    answer=$(printf '%s\n' "$root_part" | limited 10 sudo -n sh -s "$mark" sudo 2>/dev/null)
    case $answer in
    *"$mark"*) printf '%s\n' "$answer" ;;
    *) printf '%s\n' "$root_part" | sh -s "$mark" none ;;
    esac
  fi
  printf '%s done\n' "$mark"
}
