"""What features are about. The join key is the name of the column in the events."""

from feast import Entity
from feast.value_type import ValueType

card = Entity(
    name="card",
    join_keys=["card_id"],
    value_type=ValueType.STRING,
    description="One payment card; its owner may not be who pays with it",
)
