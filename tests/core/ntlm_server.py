"""What a server of NTLM says, octet by octet (MS-NLMP).

What lives here: its one message. What does not: checking the answer, which needs the hash of a password in MD4.
"""

from __future__ import annotations

import struct


def ntlm_challenge() -> bytes:
    """A CHALLENGE_MESSAGE (MS-NLMP §2.2.1.2) of a server in the domain HOUSE."""
    target = "HOUSE".encode("utf-16-le")
    pairs = [(2, target), (1, "SERVER".encode("utf-16-le")), (0, b"")]
    information = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in pairs)
    # Unicode, target, NTLM, always sign, domain, extended security, target information, version, 128 bits, keys.
    flags = 0x628A8205
    name = struct.pack("<HHI", len(target), len(target), 56)
    about = struct.pack("<HHI", len(information), len(information), 56 + len(target))
    version = bytes([10, 0, 0, 0, 0, 0, 0, 15])
    header = b"NTLMSSP\0" + struct.pack("<I", 2) + name + struct.pack("<I", flags) + b"\1\2\3\4\5\6\7\x08" + bytes(8)
    return header + about + version + target + information
