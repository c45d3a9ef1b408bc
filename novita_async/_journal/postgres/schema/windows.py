"""Functions of windows: places that count for a while after the answer.

A known quota is counted here. Of an unknown one the row keeps what the pacer knows; a process lets that
decide, and hands its new state over with the rows that it decided about. The state is compared and set by its
version, in the same commit as the rows. No lock is held while a process thinks.
"""

from typing import Final

WINDOWS: Final = """
-- A window, as a process was told of it. p_quota null: nothing. Two that were told different quotas cannot use it at the
-- same time, unless one was said for all. said: then that counts, whatever they were told.
create function novita.window_1(p_me bigint, p_account text, p_endpoint text, p_quota int,
  out id int, out quota int, out version bigint, out state text, out said bool)
language plpgsql as $$
declare w novita."window"; wanted int;
begin
  insert into novita.account (label) values (p_account) on conflict do nothing;
  select coalesce(a.quota, p_quota), a.quota is not null into wanted, said from novita.account a where label = p_account for share;
  insert into novita."window" (account, endpoint, quota) values (p_account, p_endpoint, wanted) on conflict do nothing;
  select * into w from novita."window" x where x.account = p_account and x.endpoint = p_endpoint for update;
  if w.quota is distinct from wanted and wanted is not null and (said or w.quota is null or not exists (
      select from novita.worker o join novita.usage u on u.worker = o.id and u."window" = w.id
      where o.ended is null and o.alive_until > clock_timestamp() and o.id <> p_me)) then
    perform novita.limited_1(w, wanted);
    w.quota := wanted; w.state := null;
  end if;
  if w.quota is not distinct from wanted then
    insert into novita.usage values (w.id, p_me) on conflict do nothing;
  end if;
  id := w.id; quota := w.quota; version := w.version; state := w.state;
end $$;

-- Give a window, which the caller has locked, its quota. Images that count there count on.
create function novita.limited_1(w novita."window", p_quota int) returns void language plpgsql as $$
begin
  if w.quota is null then                                -- what is let go later counts from now
    delete from novita.slot where "window" = w.id;
    insert into novita.slot select w.id, ceil((novita.now() + 61.01) * 20) / 20, w.held - coalesce(sum(r.image_num), 0)
      from novita.course c join novita.request r using (batch, serial) where c."window" = w.id
      having w.held > coalesce(sum(r.image_num), 0);
  end if;
  update novita."window" x set quota = p_quota, state = null where x.id = w.id;
end $$;

-- Say the quota of an account for all, at once and whatever they were told. p_quota null: what they are told counts again.
-- p_generation: of what was said before and may have been forgotten in a failover; null: this is new.
create function novita.quota_1(p_account text, p_quota int, p_generation bigint) returns bigint language plpgsql as $$
declare a novita.account; w novita."window";
begin
  insert into novita.account (label) values (p_account) on conflict do nothing;
  select * into a from novita.account where label = p_account for update;
  if p_generation <= a.generation then return a.generation; end if;
  update novita.account set quota = p_quota, generation = coalesce(p_generation, a.generation + 1) where label = p_account;
  if p_quota is not null then
    for w in select * from novita."window" where account = p_account order by id for update loop
      perform novita.limited_1(w, p_quota);
    end loop;
  end if;
  return coalesce(p_generation, a.generation + 1);
end $$;

create function novita.quotas_1() returns text language sql volatile as $$
  select json_object_agg(label, json_build_array(quota, generation))::text from novita.account where generation > 0
$$;

create function novita.let_go(w int, t float8) returns int language sql as $$
  with gone as (delete from novita.slot where "window" = w and until <= t returning images)
  select coalesce(sum(images), 0)::int from gone
$$;

create function novita.hold(w int, t float8, n int) returns void language sql as $$
  insert into novita.slot values (w, ceil(t * 20) / 20, n)
  on conflict ("window", until) do update set images = novita.slot.images + excluded.images
$$;

-- What a verdict means for a place and for its account. p_fate: 1 the place is held for p_hold more seconds, 2 it comes
-- back. p_cause: why the account is closed to all; null: it was served, or was not asked; 'nothing': nothing is known.
create function novita.verdict_1(p_window int, p_images int, p_fate int, p_hold float8, p_cause text, p_error text,
  p_gate float8, p_account text, p_announced float8, t float8) returns void language plpgsql as $$
begin
  if p_window is not null and p_fate = 1 then perform novita.hold(p_window, t + p_hold, p_images); end if;
  if p_window is not null and p_fate = 2 then
    update novita."window" set held = held - p_images where id = p_window and quota is not null;
  end if;
  if p_cause = 'nothing' then
    null;
  elsif p_cause is not null then
    perform novita.trip_1(p_account, p_cause, p_error, p_gate, p_announced, t);
  elsif p_fate = 1 then
    perform novita.served_1(p_account, p_announced);
  elsif p_fate = 2 then
    perform novita.withdrawn_1(p_account, t);
  end if;
end $$;

-- Count windows and money anew from the rows, after a failover. Of places without rows that were settled nobody knows
-- any more, so where there may be some, a whole window passes first.
create function novita.rebuild_1(p_hold float8) returns void language plpgsql as $$
declare w novita."window"; t float8; b int; over float8;
begin
  select ceil((extract(epoch from quiet_until) + p_hold) * 20) / 20 into over from novita.meta;
  for b in select batch from novita.budget order by batch for update loop perform novita.recount_1(b); end loop;
  for w in select * from novita."window" where quota is not null order by id for update loop
    t := novita.now();
    delete from novita.slot where "window" = w.id;
    insert into novita.slot
      select w.id, ceil((c.slot_time + p_hold) * 20) / 20, sum(r.image_num)
      from novita.course c join novita.request r using (batch, serial)
      where c."window" is null and c.account = w.account and r.endpoint = w.endpoint and c.slot_time > t - p_hold
      group by 1, 2;
    if exists (
        select from novita.place p join novita.worker o on o.id = p.worker where p."window" = w.id
          and (not o.buried or o.ended > clock_timestamp() - make_interval(secs => p_hold))) then
      perform novita.hold(w.id, over, w.quota);
    end if;
    update novita."window" set held = (select coalesce(sum(images), 0) from novita.slot where "window" = w.id)
      + (select coalesce(sum(r.image_num), 0) from novita.course c join novita.request r using (batch, serial)
         where c."window" = w.id)
      + (select coalesce(sum(images), 0) from novita.place where "window" = w.id) where id = w.id;
  end loop;
end $$;
"""
"""Text that makes them."""
