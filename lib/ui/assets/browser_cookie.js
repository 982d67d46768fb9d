// The cookie by which the server knows this browser again. One that another tab has set meanwhile counts.

const YEAR = 365 * 24 * 60 * 60

export default function ({ data, setStateValue }) {
  const { name, token } = data
  const found = document.cookie.split("; ").find((cookie) => cookie.startsWith(`${name}=`))
  if (!found) document.cookie = `${name}=${token}; Path=/; Max-Age=${YEAR}; SameSite=Strict`
  else if (found.slice(name.length + 1) !== token) setStateValue("token", found.slice(name.length + 1))
}
