"""Sections of a configuration: typed, frozen, and closed to keys that they do not know.

`trainer.config` has the sections of every run; a recipe and a denoiser bring their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]

NAME = "name"
"""The key that says of which kind a section is, where there are several."""


class Section(BaseModel):
    """A part of a configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_Section = TypeVar("_Section", bound=Section)


@dataclass(frozen=True)
class KindByName(Generic[_Section]):
    """Annotation of a field whose section has several kinds: a union discriminated by the key
    `name`.

    The union is open: kinds are looked up when a configuration is read, so that the kind of an
    installed package is as good as one of ours, and only the kind that is used gets imported.

    Attributes:
        find: Returns the section class of a name; raises LookupError, whose text says what is
            wrong and which names there are.
        default: The name of sections that have none.
    """

    find: Callable[[str], type[_Section]]
    default: str

    def kind_of(self, values: Mapping[str, Any]) -> type[_Section]:
        """Return the class of the section with these values.

        Raises:
            LookupError: When there is no kind of that name.
        """
        return self.find(str(values.get(NAME, self.default)))

    def make_default(self) -> _Section:
        """Return the section of the default kind with its default values."""
        return self.find(self.default)()

    def _validate(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value  # A section already, or nothing that could be one: pydantic says which.
        try:
            kind = self.kind_of(value)
        except LookupError as error:
            problem = PydanticCustomError("unknown_kind", "{text}", {"text": str(error.args[0])})
            detail = InitErrorDetails(type=problem, loc=(NAME,), input=value[NAME])
            raise ValidationError.from_exception_data("section", [detail]) from None
        return kind.model_validate(value)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the schema of the field: what pydantic asks of an annotation."""
        return core_schema.no_info_before_validator_function(self._validate, handler(source))
