-- The table, and a trigger that says when it has changed: l4lb listens on the channel allow_list.
CREATE TABLE allowed (
    network cidr PRIMARY KEY,
    note text NOT NULL DEFAULT ''
);

CREATE FUNCTION allowed_has_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY allow_list;
    RETURN NULL;
END
$$;

CREATE TRIGGER allowed_has_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON allowed
    FOR EACH STATEMENT EXECUTE FUNCTION allowed_has_changed();
