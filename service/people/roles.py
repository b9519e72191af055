"""What keys and accounts may do: scopes, and the roles that are made of them."""

SCOPES = {
    "audits:write": "Submit radiographs",
    "audits:choose": "Name a classifier or a policy that is not in force for the film",
    "films:announce": "Tell the watchers that films have arrived",
    "audits:read": "Read audits, classifiers, policies and metrics",
    "audits:review": "Decide on flagged audits and comment on them",
    "releases:read": "Ask whether a result may go on to readers",
    "admin": "Put classifiers and policies in force",
}
ROLES: dict[str, frozenset[str]] = {
    "uploader": frozenset({"audits:write"}),
    "auditor": frozenset({"audits:write", "audits:choose", "audits:read"}),
    "reviewer": frozenset({"audits:write", "audits:choose", "audits:read", "audits:review"}),
    "administrator": frozenset(SCOPES),
}


def parse_roles(text: str) -> dict[str, str]:
    """`VALUE=ROLE, VALUE=ROLE`. Raises ValueError for what is not one of our roles."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        value, _, role = (word.strip() for word in part.rpartition("="))
        if not value or role not in ROLES:
            raise ValueError(f"{part} is not VALUE=ROLE, with a role of {', '.join(ROLES)}")
        found[value] = role
    return found
