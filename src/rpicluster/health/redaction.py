"""What may not leave in a bug report is taken out of text: secrets vanish, names and addresses get aliases.

Pure. One `Redactor` serves a whole bundle, so the same name is the same alias in every file of it.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping

GONE = "[removed]"
# Logins that images and packages bring: they name nobody, and a report is unreadable without them.
COMMON_USERS = frozenset(
    [
        "root",
        "pi",
        "ubuntu",
        "debian",
        "admin",
        "user",
        "nobody",
        "daemon",
        "www-data",
        "systemd-network",
        "systemd-resolve",
        "systemd-timesync",
        "messagebus",
        "sshd",
        "hdfs",
        "yarn",
        "spark",
        "hadoop",
        "mapred",
        "rpicluster",
    ]
)
_WORD = (
    r"(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|credential|auth(?:orization)?|bearer|cookie|"
    r"api[._-]?key|access[._-]?key|account[._-]?key|private[._-]?key|encryption[._-]?key|signature)"
)
# A key begins where a run of such letters begins: else a long line would be searched again from each of them.
_KEY = rf"(?<![\w.\-])[\w.\-]*{_WORD}[\w.\-]*"
# Where a secret lies is no secret.
_KEY_ALONE = re.compile(_KEY, re.I)
_IS_PLACE = re.compile(r"(?:file|path|dir|directory|location|class|provider|enabled?)[\"']?$", re.I)

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(?:(?!-----BEGIN ).)*?-----END \1-----", re.S)
# One that was cut off, its line breaks written as they are or as \\n.
_PEM_CUT = re.compile(
    r"-----BEGIN [A-Z0-9 ]+-----(?:(?:\\+[nr]|\s)*(?:[A-Za-z-]+: [^\n\\]*|[A-Za-z0-9+/=]{8,}))*"
)
_SSH_KEY = re.compile(
    r"\b(?:ssh-[a-z0-9@.-]+|ecdsa-[a-z0-9@.-]+|sk-[a-z0-9@.-]+) +AAAA[A-Za-z0-9+/=]+[^\n\"]*"
)
_XML = re.compile(rf"(<name>\s*{_KEY}\s*</name>\s*<value>)(.*?)(</value>)", re.I | re.S)
_QUOTED = re.compile(rf"((?P<key>{_KEY})\\*[\"']?\s*[:=]\s*)(?P<q>\\*[\"'])(?P<value>.*?)(?P=q)", re.I)
_COLON = re.compile(rf"((?P<key>{_KEY})[\"']?[ \t]*:[ \t]+)(?P<value>[^\s\"'\[{{][^\n,}}]*)", re.I)
_EQUALS = re.compile(
    rf"((?P<key>{_KEY})[\"']?[ \t]*(?:=[ \t]*|:(?=[^\s/])))(?P<value>[^\s\"',;&\[{{][^\s\"',;&]*)", re.I
)
_SPACE = re.compile(
    rf"((?:^|(?<=[\s\"']))(?P<key>--?[\w.\-]*{_WORD}[\w.\-]*)[ \t]+)(?P<value>[^\s\"']+)", re.I | re.M
)
_HEADER = re.compile(r"\b((?:Bearer|Basic|Negotiate|Digest)\s+)[A-Za-z0-9._~+/=-]{6,}", re.I)
_URL_LOGIN = re.compile(r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]*://)[^/\s:@\"'<>]*:[^/\s@\"'<>]*@", re.I)
_KNOWN_FORMS = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bxox[abprs]-[\w-]{10,}|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|\bsk-[A-Za-z0-9_-]{20,}|\bAIza[\w-]{30,}"
)
_HOME = re.compile(r"/(?:home|Users)/([A-Za-z_][\w.-]*)")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}(?:[0-9a-fA-F]{1,4})?(?![\w:])")


class Redactor:
    """Takes secrets out of text; `secrets` are known values, `users` known names, `private` other words.

    A value of `private`, such as a serial number, gets an alias as names do.
    """

    def __init__(self, *, secrets: Iterable[str], users: Iterable[str], private: Iterable[str] = ()) -> None:
        """Prepare; values that are too short to be a secret are left out, names of images too."""
        self._secrets = sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True)
        self._aliases: dict[str, str] = {}
        self._users: list[str] = []
        self._private = sorted({p for p in private if len(p) >= 4}, key=len, reverse=True)
        for user in sorted(set(users)):
            self._add_user(user)

    def learn(self, text: str) -> None:
        """Note the users whose home folders a text mentions; for all texts, before the first `redact`."""
        for match in _HOME.finditer(text):
            self._add_user(match[1].rstrip("."))

    def redact(self, text: str) -> str:
        """Return `text` without secrets, and with aliases for users, public addresses and private words."""
        for secret in self._secrets:
            text = text.replace(secret, GONE)
        text = _PEM.sub(GONE, text)
        text = _PEM_CUT.sub(GONE, text)
        text = _SSH_KEY.sub(GONE, text)
        text = _XML.sub(rf"\g<1>{GONE}\g<3>", text)
        text = _QUOTED.sub(lambda m: self._without_value(m, m["q"]), text)
        text = _COLON.sub(lambda m: self._without_value(m, ""), text)
        text = _EQUALS.sub(lambda m: self._without_value(m, ""), text)
        text = _SPACE.sub(lambda m: self._without_value(m, ""), text)
        text = _HEADER.sub(rf"\g<1>{GONE}", text)
        text = _URL_LOGIN.sub(rf"\g<1>{GONE}@", text)
        text = _KNOWN_FORMS.sub(GONE, text)
        for word in self._private:
            text = text.replace(word, self._alias("id", word))
        for user in self._users:
            pattern = rf"(?<![A-Za-z0-9]){re.escape(user)}(?![A-Za-z0-9])"
            text = re.sub(pattern, self._alias("user", user.lower()), text, flags=re.I)
        text = _IPV4.sub(self._address, text)
        return _IPV6.sub(self._address, text)

    def redact_value(self, value: object, key: str = "") -> object:
        """Return JSON-able values redacted string by string, so that quoting and escapes hide nothing.

        What stands under the key of a secret goes as a whole; a key that is a path is the name of a file.
        """
        if value is None:
            return None
        if _KEY_ALONE.fullmatch(key) and not _IS_PLACE.search(key):
            return GONE
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, Mapping):
            return {self.redact(str(k)): self.redact_value(v, str(k)) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.redact_value(item) for item in value]
        return value

    def _add_user(self, user: str) -> None:
        if user and user not in COMMON_USERS and user not in self._users:
            self._users.append(user)
            self._users.sort(key=len, reverse=True)

    def _without_value(self, match: "re.Match[str]", quote: str) -> str:
        if _IS_PLACE.search(match["key"]):
            return match[0]
        return f"{match[1]}{quote}{GONE}{quote}"

    def _address(self, match: "re.Match[str]") -> str:
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:  # a version number, a time, a hash
            return match[0]
        return self._alias("public-address", str(address)) if address.is_global else match[0]

    def _alias(self, what: str, value: str) -> str:
        key = f"{what} {value}"
        if key not in self._aliases:
            number = sum(known.startswith(f"{what} ") for known in self._aliases) + 1
            self._aliases[key] = f"{what}-{number}"
        return self._aliases[key]
