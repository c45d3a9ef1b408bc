"""Functions of the health of accounts, which all processes share.

An account that is refused, not answered or not reached is closed to all, for a pause that doubles, and then
takes one probe of one process. What was announced before the last trip tells nothing new.
"""

from typing import Final

HEALTH: Final = """
-- Close an account to all. p_gate: seconds that the service asked for; 0: it did not say.
create function novita.trip_1(p_account text, p_cause text, p_error text, p_gate float8, p_announced float8, t float8)
returns void language plpgsql as $$
declare a novita.account; pause float8;
begin
  insert into novita.account (label) values (p_account) on conflict do nothing;
  select * into a from novita.account where label = p_account for update;
  if p_cause = 'out' then
    update novita.account set error = p_error, out_until = t + 60, probe_until = 0 where label = p_account;
  elsif p_announced <= a.tripped_at then
    if a.cause is not null then
      update novita.account set gate_until = greatest(gate_until, t + p_gate) where label = p_account;
    end if;
  else
    pause := (0.75 + 0.25 * random()) * least(0.5 * 2 ^ least(a.trips, 16),
      case p_cause when 'rate limited' then 8
        else least(greatest(9, case when a.cause is null then 0 else (t - a.opened_at) / 6 end),
                   case p_cause when 'uncertain' then 300 else 60 end) end);
    update novita.account set cause = p_cause, trips = a.trips + 1, tripped_at = t, probe_until = 0,
      opened_at = case when a.cause is null then t else a.opened_at end, gate_until = t + greatest(pause, p_gate)
      where label = p_account;
  end if;
end $$;

-- An account was served: it is open to all.
create function novita.served_1(p_account text, p_announced float8) returns void language sql as $$
  update novita.account set trips = 0, probe_until = 0,
    cause = case when p_announced > tripped_at then null else cause end,
    gate_until = case when p_announced > tripped_at then 0 else gate_until end,
    error = case when p_announced >= out_until then null else error end
  where label = p_account and (cause is not null or error is not null)
$$;

-- Whether an account may be used now. most: how many requests; 0: none, for `delay` seconds. A probe is awaited
-- while the process that sent it lives.
create function novita.open_1(p_me bigint, p_account text, t float8, out most int, out delay float8, out why text) language plpgsql as $$
declare a novita.account;
begin
  most := 2147483647; delay := 0;
  select * into a from novita.account where label = p_account and (cause is not null or error is not null) for update;
  if not found then return; end if;
  most := 0;
  if a.error is not null and t < a.out_until then
    why := 'out'; delay := a.out_until - t;
  elsif t < a.gate_until then
    why := 'gate'; delay := a.gate_until - t;
  elsif t < a.probe_until and exists (
      select from novita.worker where id = a.prober and ended is null and alive_until > clock_timestamp()) then
    why := 'probe'; delay := least(a.probe_until - t, 1);
  else
    most := 1;
    update novita.account set prober = p_me, probe_until = t + case cause when 'uncertain' then 60 else 10 end
      where label = p_account;
  end if;
end $$;

create function novita.withdrawn_1(p_account text, t float8) returns void language sql as $$
  update novita.account set probe_until = 0 where label = p_account and probe_until > t
$$;

create function novita.health_1() returns text language sql volatile as $$
  select json_agg(json_build_object('label', label, 'cause', cause, 'error', error,
      'gate', gate_until - novita.now(), 'out', out_until - novita.now()))::text
    from novita.account where cause is not null or error is not null
$$;
"""
"""Text that makes them."""
