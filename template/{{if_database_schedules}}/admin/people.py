"""Who may log in to the admin page. There is no default password: one is given, and kept as a hash."""

from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError

from ..settings import NotConfigured


def put_superuser(name: str, password: str) -> None:
    """Make this user, or give them a new password and all rights; raises NotConfigured if it is too easy to guess."""
    user = get_user_model().objects.filter(username=name).first() or get_user_model()(username=name)
    if user.pk and user.is_active and user.is_superuser and user.check_password(password):
        return  # a new hash would end the sessions
    try:
        validate_password(password, user)
        user.is_active = user.is_staff = user.is_superuser = True
        user.set_password(password)
        user.full_clean()
    except ValidationError as error:
        raise NotConfigured(f"user {name}: {' '.join(error.messages)}") from error
    user.save()
