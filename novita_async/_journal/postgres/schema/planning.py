"""Functions of plans, of which several may be made at once.

Whoever plans while others work has a *session*, in which equal orders are counted; so several may plan the same
input at once, and no row is made twice. A new row's place is the one in the batch, so that no two rows have one
name. Each piece of a plan has a number: where a connection breaks after the commit, the same piece asked for
again finds the rows that it has made. The counts are not logged: where the database has crashed, their session
is gone, and the input must be planned anew, which finds what is there.
"""

from typing import Final

PLANNING: Final = """
-- Begin to plan while others work.
create function novita.session_1(p_batch int, p_me bigint) returns int language plpgsql as $$
declare s int;
begin
  update novita.batch set run = run + 1 where id = p_batch returning run into s;
  insert into novita.planning values (s, p_batch, 0, p_me);
  return s;
end $$;

-- Find requests by key and number, or make them. p_nth: number among equals of this piece. p_session null: the batch
-- is the caller's alone. A request that was never sent takes endpoint and images anew.
create function novita.plan_1(p_me bigint, p_batch int, p_session int, p_piece int, p_make bool, p_key bytea[],
  p_nth int[], p_position int[], p_kind text[], p_endpoint text[], p_images int[], p_request bytea[], p_tag text[],
  p_metadata text[])
returns table (n bigint, serial bigint, is_new bool) language plpgsql as $$
#variable_conflict use_column
declare r int; latest bigint; done bool;
begin
  perform novita.durable_1();
  if p_session is null then
    select run, piece_run = run and piece >= p_piece into r, done from novita.batch
      where id = p_batch and holder = p_me for update;
    if not found then raise exception 'novita: the batch is not mine any more' using errcode = 'NV001'; end if;
    update novita.batch set piece = p_piece, piece_run = r where id = p_batch;
  else
    perform 1 from novita.batch where id = p_batch for update;
    select piece >= p_piece into done from novita.planning where batch = p_batch and session = p_session;
    if not found then raise exception 'novita: the plan is gone' using errcode = 'NV003'; end if;
    update novita.planning set piece = p_piece where batch = p_batch and session = p_session;
    r := p_session;
  end if;
  select coalesce(max(serial), 0) into latest from novita.request where batch = p_batch;
  return query
  with v as (
    select * from unnest(p_key, p_nth, p_position, p_kind, p_endpoint, p_images, p_request, p_tag, p_metadata)
      with ordinality v(key, nth, position, kind, endpoint, image_num, request, tag, metadata, n)
  ), mine as (
    select key, count(*)::int c from v group by key
  ), claimed as (
    select q.key, count(*)::int c from novita.request q join novita.course using (batch, serial)
    where p_session is null and q.batch = p_batch and q.key = any(p_key) and run = r group by 1
    union all
    select key, n from novita.asked where batch = p_batch and session = p_session and key = any(p_key)
  ), before as (
    select key, claimed.c - case when done then mine.c else 0 end c from claimed join mine using (key)
  ), u as (
    select v.*, q.serial, v.nth + coalesce(c, 0) occurrence from v left join before using (key)
    left join novita.request q on q.batch = p_batch and q.key = v.key and q.occurrence = v.nth + coalesce(c, 0)
  ), new as (
    select u.*, latest + row_number() over (order by u.n) fresh from u where u.serial is null and p_make
  ), made as (
    insert into novita.request (batch, serial, key, occurrence, kind, endpoint, image_num, request, tag, metadata)
    select p_batch, fresh, key, occurrence, kind, endpoint, image_num, request, tag, metadata from new
  ), begun as (
    insert into novita.course (batch, serial, run, position, state, attempts, bought, perhaps)
    select p_batch, fresh, r, case when p_session is null then position else fresh - 1 end, 'planned', 0, 0, 0 from new
  ), again as (
    update novita.request q set request = u.request, tag = u.tag, metadata = u.metadata,
      endpoint = case when c.announced_time is null and c.earlier is null then u.endpoint else q.endpoint end,
      image_num = case when c.announced_time is null and c.earlier is null then u.image_num else q.image_num end
    from u join novita.course c on c.batch = p_batch and c.serial = u.serial
    where q.batch = p_batch and q.serial = u.serial
      and (q.request, q.tag, q.metadata, q.endpoint, q.image_num)
          is distinct from (u.request, u.tag, u.metadata, u.endpoint, u.image_num)
  ), asked as (
    update novita.course c set run = r, position = u.position, moves = c.moves + 1
    from u where p_session is null and c.batch = p_batch and c.serial = u.serial
  ), counted as (
    insert into novita.asked as a (batch, session, key, n) select p_batch, p_session, key, c from mine
    where p_session is not null and not done
    on conflict (batch, session, key) do update set n = a.n + excluded.n
  )
  select u.n, coalesce(u.serial, new.fresh), u.serial is null from u left join new using (n) order by u.n;
end $$;

-- Put one request into a batch, whoever works on it. False: another stands there under this key.
create function novita.put_1(p_batch text, p_key bytea, p_kind text, p_endpoint text, p_images int, p_request bytea,
  p_tag text, p_metadata text) returns bool language plpgsql as $$
declare b novita.batch; there bytea; s bigint;
begin
  perform novita.durable_1();
  insert into novita.batch (name) values (p_batch) on conflict do nothing;
  select * into b from novita.batch where name = p_batch for update;
  select request into there from novita.request where batch = b.id and key = p_key and occurrence = 0;
  if found then return there = p_request; end if;
  select coalesce(max(serial), 0) + 1 into s from novita.request where batch = b.id;
  insert into novita.request (batch, serial, key, occurrence, kind, endpoint, image_num, request, tag, metadata)
    values (b.id, s, p_key, 0, p_kind, p_endpoint, p_images, p_request, p_tag, p_metadata);
  insert into novita.course (batch, serial, run, position, state, attempts, bought, perhaps, single)
    values (b.id, s, b.run, s - 1, 'planned', 0, 0, 0, true);
  return true;
end $$;
"""
"""Text that makes them."""
