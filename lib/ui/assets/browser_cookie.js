// Sets the cookie by which the server recognizes this browser. If another tab has set one meanwhile, that one counts.

const YEAR = 365 * 24 * 60 * 60

export default function ({ data, setStateValue }) {
  const { name, token } = data
  const found = document.cookie.split("; ").find((cookie) => cookie.startsWith(`${name}=`))
  if (!found) document.cookie = `${name}=${token}; Path=/; Max-Age=${YEAR}; SameSite=Strict`
  else if (found.slice(name.length + 1) !== token) setStateValue("token", found.slice(name.length + 1))
}
