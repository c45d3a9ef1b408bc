"""The part of the schema that says who works on what: rows taken, put back, claimed.

A row that a worker could not bring to its end (its pictures are not on that host, its files cannot be had, the
wait was given up) is *set aside*: that worker does not take it again, a later one does, once. So a batch that
nobody can end is complete for those who tried, and no two workers hand such a row to each other for ever.
"""

from typing import Final

WORK: Final = """
alter table novita.course add column aside bigint;       -- the latest worker that could not bring it to an end

-- Take rows for which something is to be done and that nobody has. p_after: what the caller has taken last, so that
-- the index need not be read over what is gone. p_last: up to which row; null: no end.
create function novita.lease_2(p_me bigint, p_batch int, p_most int, p_after bigint, p_last bigint)
returns setof bigint language plpgsql as $$
begin
  perform 1 from novita.worker where id = p_me and ended is null for share;
  if not found then raise exception 'novita: this worker was taken for dead' using errcode = 'NV002'; end if;
  return query
    with f as materialized (                                     -- else a plan may ask once a row, and take more
      select serial from novita.course where batch = p_batch and free and serial > p_after
        and (p_last is null or serial <= p_last) and (aside is null or aside < p_me)
      order by serial limit p_most for update skip locked)
    update novita.course c set owner = p_me, free = false, moves = c.moves + 1 from f
    where c.batch = p_batch and c.serial = f.serial returning c.serial;
end $$;

-- Whether nothing is left for a worker: no row that it could take, and none that another may give back.
create function novita.complete_1(p_me bigint, p_batch int) returns bool language sql stable as $$
  select not exists (
    select from novita.course where batch = p_batch and free and (aside is null or aside < p_me)
  ) and not exists (
    select from novita.course where batch = p_batch and owner is not null and owner <> p_me)
$$;

-- Let go of rows that I have. p_todo: whether something is still to be done, by a later worker.
create function novita.put_back_1(p_me bigint, p_batch int, p_serial bigint[], p_todo bool[]) returns void
language sql as $$
  update novita.course c set owner = null, free = u.todo, aside = p_me, moves = c.moves + 1
  from unnest(p_serial, p_todo) u(serial, todo)
  where c.batch = p_batch and c.serial = u.serial and c.owner = p_me and c."window" is null and c.state <> 'announced'
$$;

-- Give back, at once, what a worker had and of which nothing is on its way: what was, `move_1` has settled before.
create function novita.free_2(p_owner bigint) returns bigint language sql as $$
  with given as (
    update novita.course set owner = null, free = state in ('planned', 'submitted', 'succeeded'), moves = moves + 1
    where owner = p_owner and "window" is null and state <> 'announced' returning 1)
  select count(*) from given
$$;

-- Take rows that have ended, to go on with them all the same.
create function novita.claim_1(p_me bigint, p_batch int, p_serial bigint[], p_state text[]) returns setof bigint
language plpgsql as $$
begin
  perform 1 from novita.worker where id = p_me and ended is null for share;
  if not found then raise exception 'novita: this worker was taken for dead' using errcode = 'NV002'; end if;
  return query
    update novita.course c set owner = p_me, free = false, moves = c.moves + 1
    from unnest(p_serial, p_state) u(serial, state)
    where c.batch = p_batch and c.serial = u.serial and c.state = u.state and c.owner is null returning c.serial;
end $$;
"""
