package main

import (
	"net/http"
	"net/url"
	"os"
	"regexp"

	"github.com/golang-jwt/jwt/v4"
)

var (
	sessionSecret = []byte(os.Getenv("SESSION_SECRET"))
	userName      = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
)

// logIn begins a session, which is a signed cookie with the user's name. Real applications ask for more than a name.
func logIn(response http.ResponseWriter, request *http.Request) {
	user := request.PostFormValue("user")
	if !userName.MatchString(user) {
		http.Error(response, "a name has 1 to 32 characters of a-z, 0-9 and -", http.StatusBadRequest)
		return
	}
	setCookie(response, "session", sign(jwt.RegisteredClaims{Subject: user}, sessionSecret))
	http.Redirect(response, request, "/", http.StatusSeeOther)
}

// userOf is the session's user, or empty.
func userOf(request *http.Request) string {
	var session jwt.RegisteredClaims
	if cookie, err := request.Cookie("session"); err == nil {
		secret := func(*jwt.Token) (any, error) { return sessionSecret, nil }
		if _, err := jwt.ParseWithClaims(cookie.Value, &session, secret, jwt.WithValidMethods([]string{"HS256"})); err == nil {
			return session.Subject
		}
	}
	return ""
}

func withUser(handle func(http.ResponseWriter, *http.Request, string)) http.HandlerFunc {
	return func(response http.ResponseWriter, request *http.Request) {
		if user := userOf(request); user != "" {
			handle(response, request, user)
		} else {
			http.Error(response, "log in first", http.StatusUnauthorized)
		}
	}
}

// refuseOtherOrigins protects against forged requests: what changes something comes from a page of this application.
func refuseOtherOrigins(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		origin, err := url.Parse(request.Header.Get("Origin"))
		if request.Method != http.MethodGet && (err != nil || origin.Host != request.Host) {
			http.Error(response, "from another origin", http.StatusForbidden)
			return
		}
		handler.ServeHTTP(response, request)
	})
}

func setCookie(response http.ResponseWriter, name, value string) {
	// In production, also Secure.
	http.SetCookie(response, &http.Cookie{Name: name, Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

func sign(claims jwt.Claims, secret []byte) string {
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
	if err != nil {
		panic(err) // claims that are no JSON
	}
	return token
}
