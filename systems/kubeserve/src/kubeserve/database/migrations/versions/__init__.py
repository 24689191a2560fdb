"""One module per form of the tables, in order. A form that was released is never changed."""
