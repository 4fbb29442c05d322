"""A node's whole answer as MachineFacts; bytes in, value out."""

from rpicluster.model.machine import Clock, MachineFacts, Names
from rpicluster.nodes.ssh import read_deployed, read_hardware, read_network, read_storage, read_system
from rpicluster.nodes.ssh.exchange import ClockProbe
from rpicluster.nodes.ssh.sections import Reader, by_file, is_whole, split_sections


def read_machine(output: str, mark: str, probe: ClockProbe | None = None) -> MachineFacts:
    """Return the facts in a node's answer; never fails, what is not understood stands in `problems`."""
    reader = Reader(split_sections(output, mark))
    if not is_whole(output, mark):
        reader.note("answer", "it broke off before its end")
    facts = {
        **_identity(reader),
        **_hardware(reader),
        **_storage(reader),
        **_network(reader),
        **_system(reader, probe),
        **_deployed(reader),
    }
    return MachineFacts(**facts, problems=tuple(dict.fromkeys(reader.problems)))


def _identity(reader: Reader) -> dict[str, object]:
    files = reader.read("identity", by_file, {})
    words = reader.text("login").splitlines()
    how = reader.text("privilege").strip()
    if how == "root" and len(words) > 2 and words[2] not in ("", "root"):
        how = "sudo-password"  # the whole script ran by sudo, for a login that is not root
    uptime = files.get("/proc/uptime", "").split()
    return {
        "machine_id": files.get("/etc/machine-id", "").strip() or None,
        "boot_id": files.get("/proc/sys/kernel/random/boot_id", "").strip() or None,
        "uptime_s": reader.read("identity", lambda _: float(uptime[0]), None) if uptime else None,
        "login": (words[2] if how == "sudo-password" else words[1]) if len(words) > 1 else None,
        "privilege": how if how in ("root", "sudo", "sudo-password") else "none",
    }


def _hardware(reader: Reader) -> dict[str, object]:
    tree, cpuinfo = reader.text("device-tree"), reader.text("processor")
    words = reader.text("architecture").split()
    throttled = reader.read("throttled", read_hardware.read_throttled, None)
    bits = words[4] if len(words) > 4 else ""
    virtual = reader.text("virtualization").strip()
    return {
        "board": reader.read(
            "device-tree" if tree.strip() else "processor",
            lambda _: read_hardware.read_board(tree, cpuinfo),
            None,
        ),
        "virtualization": virtual if virtual not in ("", "none") else None,
        "kernel": words[1] if len(words) > 1 else None,
        "kernel_arch": words[2] if len(words) > 2 else None,
        "userland_arch": words[3] if len(words) > 3 and words[3] != "unknown" else None,
        "userland_bits": int(bits) if bits in ("32", "64") else None,
        "processor": reader.read("processor", read_hardware.read_processor, None),
        "memory": reader.read("memory", read_hardware.read_memory, None),
        "power": reader.read(
            "device-tree",
            lambda text: read_hardware.read_power(text, throttled),
            read_hardware.read_power("", throttled),
        ),
        "temperature_c": reader.read("temperature", read_hardware.read_temperature, None),
    }


def _storage(reader: Reader) -> dict[str, object]:
    card, ids, space = reader.text("card"), reader.text("disk-ids"), reader.text("space")
    disks = reader.read("disks", lambda text: read_storage.read_disks(text, card, ids), ())
    mounts = reader.read("mounts", lambda text: read_storage.read_mounts(text, space, disks), ())
    swaps = reader.read("swaps", lambda text: read_storage.read_swaps(text, mounts, disks), ())
    return {"disks": disks, "mounts": mounts, "swaps": swaps}


def _network(reader: Reader) -> dict[str, object]:
    links, resolver, lookups = (reader.text(name) for name in ("links", "resolver", "lookups"))
    return {
        "names": reader.read("names", lambda text: read_network.read_names(text, resolver, lookups), Names()),
        "hosts": reader.read("hosts", read_network.read_hosts, ()),
        "interfaces": reader.read("addresses", lambda text: read_network.read_interfaces(text, links), ()),
        "routes": reader.read("routes", read_network.read_routes, ()),
        "listeners": reader.read("listeners", read_network.read_listeners, None),
    }


def _system(reader: Reader, probe: ClockProbe | None) -> dict[str, object]:
    state, boot = reader.text("time"), reader.text("boot-files")
    firewall = reader.sections.get("firewall")
    python = reader.text("python").strip()
    return {
        "os": reader.read("os", read_system.read_os, None),
        "java": reader.read("java", read_system.read_java, ()),
        "python": python or None,
        "r": reader.read("r", read_system.read_r, None) if "r" in reader.sections else None,
        "clock": reader.read("clock", lambda text: read_system.read_clock(text, state, probe), Clock()),
        "host_keys": reader.read("host-keys", read_system.read_host_keys, ()),
        "cgroups": reader.read("cgroups", lambda text: read_system.read_cgroups(text, boot), None),
        "cloud_init": reader.read("cloud-init", read_system.read_cloud_init, None),
        "system_state": reader.text("system").strip() or None,
        "units": reader.read("units", read_system.read_units, {}),
        # No table and no permission to look print the same nothing: only the status tells.
        "firewall_tables": tuple(firewall.text.split("\n"))
        if firewall and firewall.text.strip()
        else (() if firewall and firewall.status == 0 else None),
        "walls": reader.read("other-firewalls", read_network.read_walls, ())
        if "other-firewalls" in reader.sections
        else (),
        "kernel_log": tuple(line for line in reader.text("kernel-log").splitlines() if line.strip()),
    }


def _deployed(reader: Reader) -> dict[str, object]:
    hashes = reader.text("hashes")
    manifest = "manifest" in reader.sections
    names = reader.text("name-directory").strip()
    return {
        "runtime": reader.text("runtime").strip().rpartition("/")[2] or None,
        "runtime_damage": tuple(reader.text("runtime-damage").splitlines()),
        "file_system": names.removeprefix("clusterID=") or None,
        "daemons": reader.read("daemons", read_deployed.read_daemons, ()),
        "package_managers": tuple(reader.text("package-managers").splitlines()),
        "manifest": reader.read("manifest", read_deployed.read_manifest, None) if manifest else None,
        "deployed": reader.read("modes", lambda text: read_deployed.read_deployed(text, hashes), {})
        if manifest
        else {},
        "secrets": reader.read("secrets", lambda text: read_deployed.read_deployed(text, ""), {})
        if "secrets" in reader.sections
        else {},
    }
