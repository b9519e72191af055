"""Statements about people: accounts, logins and failed logins."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import Session, joinedload

from service.records.tables import AccountRow, LoginRow, SetupRow, SignOnRow, SubjectRow, ThrottleRow


def has_account(session: Session) -> bool:
    return bool(session.scalar(select(exists().where(AccountRow.disabled_at.is_(None)))))


def account(session: Session, name: str) -> AccountRow | None:
    return session.get(AccountRow, name)


def accounts(session: Session) -> Sequence[AccountRow]:
    return session.scalars(select(AccountRow).order_by(AccountRow.name)).all()


def active_names(session: Session, roles: Sequence[str]) -> Sequence[str]:
    statement = select(AccountRow.name).where(AccountRow.role.in_(roles), AccountRow.disabled_at.is_(None))
    return session.scalars(statement.order_by(AccountRow.name)).all()


def account_of_subject(session: Session, issuer: str, subject: str) -> AccountRow | None:
    linked = SubjectRow.account_name == AccountRow.name
    statement = select(AccountRow).join(SubjectRow, linked)
    return session.scalar(statement.where(SubjectRow.issuer == issuer, SubjectRow.subject == subject))


def linked_names(session: Session) -> set[str]:
    """Accounts that an identity provider lets in."""
    return set(session.scalars(select(SubjectRow.account_name).distinct()))


def open_sign_ons(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(SignOnRow)) or 0


def use_sign_on(session: Session, state_sha256: str, now: datetime) -> SignOnRow | None:
    """The browser that was sent off with this state, once and in time."""
    row = session.get(SignOnRow, state_sha256)
    statement = delete(SignOnRow).where(SignOnRow.state_sha256 == state_sha256, SignOnRow.expires_at > now)
    used = session.execute(statement.returning(SignOnRow.state_sha256)).first() is not None
    return row if used else None


def login(session: Session, token_sha256: str) -> LoginRow | None:
    return session.scalar(
        select(LoginRow).where(LoginRow.token_sha256 == token_sha256).options(joinedload(LoginRow.account))
    )


def end_login(session: Session, token_sha256: str) -> None:
    session.execute(delete(LoginRow).where(LoginRow.token_sha256 == token_sha256))


def end_logins_of(session: Session, name: str) -> None:
    session.execute(delete(LoginRow).where(LoginRow.account_name == name))


def forget_expired(session: Session, now: datetime) -> None:
    session.execute(delete(LoginRow).where(LoginRow.expires_at <= now))
    session.execute(delete(SetupRow).where(SetupRow.expires_at <= now))
    session.execute(delete(SignOnRow).where(SignOnRow.expires_at <= now))


def throttle(session: Session, name: str) -> ThrottleRow | None:
    return session.get(ThrottleRow, name)


def forget_failures(session: Session, name: str) -> None:
    session.execute(delete(ThrottleRow).where(ThrottleRow.name == name))


def forget_old_failures(session: Session, before: datetime) -> None:
    session.execute(delete(ThrottleRow).where(ThrottleRow.retry_at < before))


def use_setup_token(session: Session, token_sha256: str, now: datetime) -> bool:
    """True once for a token that is known and in time."""
    statement = delete(SetupRow).where(SetupRow.token_sha256 == token_sha256, SetupRow.expires_at > now)
    return session.execute(statement.returning(SetupRow.token_sha256)).first() is not None
