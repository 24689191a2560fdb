# The platform's own user has the password of the Secret, whatever it was before; those of deployments stay.
set -eu
umask 077
test -n "$REDISCLI_AUTH"
users=/data/users.acl
hash=$(printf %s "$REDISCLI_AUTH" | sha256sum | cut -d ' ' -f 1)
{
  echo "user default on #$hash ~* &* +@all"
  if [ -e "$users" ]; then
    grep -v '^user default ' "$users" || true
  fi
} >"$users.new"
mv "$users.new" "$users"
exec redis-server /etc/redis/redis.conf
